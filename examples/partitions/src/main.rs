//! Scores synthetic clips whose embeddings lie in many Parquet files, inside DataFusion, and shows that nothing is lost by it.
//!
//!     cargo run --manifest-path examples/partitions/Cargo.toml -- [POOL REAL [K]]
//!
//! POOL and REAL are folders that `muybridge embed` wrote; without them, sets are drawn. The engine scans the pool, one task for
//! each of its partitions; a function of muybridge gives each clip its nearest of one file of real clips; a window in SQL merges
//! the lists over all files. Any engine that scans Parquet and runs such a function (Ballista, Spark, Ray) can do the same on as
//! many machines as there are files. The scores must equal those of one search over everything, to the last bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{
    Array, AsArray, Float32Builder, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use muybridge::metrics::unit;
use muybridge::runtime::DeviceOptions;
use muybridge::selection::scores::{self, Neighbour};
use muybridge::selection::{Embeddings, Shuffle};
use muybridge::{Device, Error};

/// Score of each clip, and the names of its nearest real clips.
type Scores = BTreeMap<String, (f32, Vec<String>)>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().build();
    match runtime.map_err(outside).and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &[String]) -> Result<bool> {
    let drawn = tempfile::tempdir()?;
    let (pool, real, k) = match args {
        [pool, real] => (PathBuf::from(pool), PathBuf::from(real), 5),
        [pool, real, k] => (PathBuf::from(pool), PathBuf::from(real), k.parse().map_err(outside)?),
        _ => {
            let (pool, real) = (drawn.path().join("pool"), drawn.path().join("real"));
            draw(&pool, "synthetic", 3001, 13, 1)?;
            draw(&real, "real", 902, 7, 2)?;
            (pool, real, 5)
        }
    };
    let shards = parquet_files(&real)?;
    println!("{} files of synthetic clips, {} of real ones, {k} neighbours", parquet_files(&pool)?.len(), shards.len());
    let started = Instant::now();
    let merged = in_engine(&pool, &shards, k).await?;
    println!("in DataFusion: {} clips scored in {:.2} s", merged.len(), started.elapsed().as_secs_f64());
    let started = Instant::now();
    let whole = at_once(&pool, &real, k)?;
    println!("at once:       {} clips scored in {:.2} s", whole.len(), started.elapsed().as_secs_f64());
    let equal =
        whole.iter().filter(|(id, (score, _))| merged.get(*id).is_some_and(|m| m.0.to_bits() == score.to_bits()));
    let (equal, same) = (equal.count(), whole.iter().filter(|(id, list)| merged.get(*id) == Some(list)).count());
    println!("{equal} of {} scores are equal to the last bit, {same} with the same neighbours", whole.len());
    Ok(equal == whole.len() && merged.len() == whole.len())
}

/// Writes `count` clips in random directions around a few common ones, in so many files.
fn draw(folder: &Path, name: &str, count: usize, files: usize, seed: u64) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let (width, mut random) = (768, Shuffle::new(seed));
    let mut number = move || random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0;
    let share = count.div_ceil(files);
    for file in 0..files {
        let mut part = Embeddings { model: "drawn".into(), ..Embeddings::default() };
        for i in file * share..((file + 1) * share).min(count) {
            let row: Vec<f32> = (0..width).map(|c| number() + if c % 8 == i % 8 { 0.5 } else { 0.0 }).collect();
            part.push(&format!("{name}/{i:06}"), &format!("{i:064x}"), &unit(&row)).map_err(outside)?;
        }
        part.write(folder.join(format!("{file:05}.parquet"))).map_err(outside)?;
    }
    Ok(())
}

fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "parquet"));
    files.sort();
    if files.is_empty() { Err(outside(format!("{}: no .parquet file", folder.display()))) } else { Ok(files) }
}

fn outside(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DataFusionError {
    DataFusionError::External(e.into())
}

/// One search over everything.
fn at_once(pool: &Path, real: &Path, k: usize) -> Result<Scores> {
    let (pool, real) = (Embeddings::open(pool).map_err(outside)?, Embeddings::open(real).map_err(outside)?);
    let device = Device::open("cpu").map_err(outside)?;
    let lists =
        scores::nearest::<Error>(&device, &pool.rows, &real.rows, pool.width, k, |_, _| Ok(())).map_err(outside)?;
    let named = |list: &Vec<Neighbour>| (scores::mean(list), list.iter().map(|n| real.ids[n.index].clone()).collect());
    Ok(pool.ids.into_iter().zip(&lists).map(|(id, list)| (id, named(list))).collect())
}

/// The same by the engine: a list for each clip and file, then the best of them over all files.
async fn in_engine(pool: &Path, shards: &[PathBuf], k: usize) -> Result<Scores> {
    let engine =
        SessionContext::new_with_config(SessionConfig::new().with_target_partitions(parquet_files(pool)?.len()));
    engine.register_parquet("pool", pool.to_string_lossy().as_ref(), ParquetReadOptions::default()).await?;
    let schema = engine.table("pool").await?.schema().clone();
    let embedding = schema.field_with_unqualified_name("embedding")?.data_type().clone();
    engine.register_udf(nearest(embedding, shards, k)?);
    let parts = (0..shards.len()).map(|i| format!("SELECT id, unnest(nearest(embedding, {i})) AS n FROM pool"));
    let lists = parts.collect::<Vec<_>>().join(" UNION ALL ");
    let query = format!(
        "SELECT id, score, real, place FROM
            (SELECT id, score, real, row_number() OVER (PARTITION BY id ORDER BY score DESC, real) AS place FROM
                (SELECT id, get_field(n, 'score') AS score, get_field(n, 'real') AS real FROM ({lists})))
         WHERE place <= {k}"
    );
    // Sums of a few cosines in f64 are exact, so that the order in which an engine adds them does not matter.
    let scores =
        engine.sql(&format!("SELECT id, avg(score) AS score FROM ({query}) GROUP BY id")).await?.collect().await?;
    let names = engine.sql(&format!("SELECT id, real FROM ({query}) ORDER BY id, place")).await?.collect().await?;
    let mut merged = Scores::new();
    for batch in &scores {
        let values = column(batch, "score")?;
        let values = values.as_primitive_opt::<Float64Type>().ok_or_else(|| outside("scores are no f64"))?;
        for (id, score) in texts(batch, "id")?.into_iter().zip(values.values()) {
            merged.insert(id, (*score as f32, Vec::new()));
        }
    }
    for batch in &names {
        for (id, real) in texts(batch, "id")?.into_iter().zip(texts(batch, "real")?) {
            merged.entry(id).or_default().1.push(real);
        }
    }
    Ok(merged)
}

fn column(batch: &RecordBatch, name: &str) -> Result<Arc<dyn Array>> {
    batch.column_by_name(name).cloned().ok_or_else(|| outside(format!("no column {name}")))
}

fn texts(batch: &RecordBatch, name: &str) -> Result<Vec<String>> {
    let column = datafusion::arrow::compute::cast(&column(batch, name)?, &DataType::Utf8)?;
    Ok(column.as_string::<i32>().iter().map(|t| t.unwrap_or_default().to_string()).collect())
}

/// `nearest(embedding, file)`: the nearest real clips of one file, the nearest first, each with its score.
fn nearest(embedding: DataType, shards: &[PathBuf], k: usize) -> Result<ScalarUDF> {
    let real: Vec<Embeddings> =
        shards.iter().map(Embeddings::open).collect::<std::result::Result<_, _>>().map_err(outside)?;
    // The engine runs a task on each of its threads already.
    let options = DeviceOptions { threads: Some(1), ..DeviceOptions::default() };
    let device = Device::open_with("cpu", &options).map_err(outside)?;
    let fields =
        Fields::from(vec![Field::new("score", DataType::Float32, true), Field::new("real", DataType::Utf8, true)]);
    let result = DataType::List(Arc::new(Field::new("item", DataType::Struct(fields.clone()), true)));
    let search = move |args: &[ColumnarValue]| -> Result<ColumnarValue> {
        let [ColumnarValue::Array(rows), ColumnarValue::Scalar(ScalarValue::Int64(Some(file)))] = args else {
            return Err(outside("wanted nearest(embedding column, number of a file)"));
        };
        let real = real.get(*file as usize).ok_or_else(|| outside(format!("no file {file}")))?;
        let lists = rows.as_list_opt::<i32>().ok_or_else(|| outside("embeddings are no lists"))?;
        let all =
            lists.values().as_primitive_opt::<Float32Type>().ok_or_else(|| outside("embeddings are no floats"))?;
        let offsets = lists.value_offsets();
        let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
        let pool = &all.values()[first..last];
        if pool.len() != lists.len() * real.width {
            return Err(outside(format!("{} numbers in {} embeddings of {}", pool.len(), lists.len(), real.width)));
        }
        let found =
            scores::nearest::<Error>(&device, pool, &real.rows, real.width, k, |_, _| Ok(())).map_err(outside)?;
        let other = || outside("a column of the result is of another type");
        let mut out = ListBuilder::new(StructBuilder::from_fields(fields.clone(), found.len() * k));
        for list in &found {
            for neighbour in list {
                let entry = out.values();
                entry.field_builder::<Float32Builder>(0).ok_or_else(other)?.append_value(neighbour.score);
                let name = entry.field_builder::<StringBuilder>(1).ok_or_else(other)?;
                name.append_value(&real.ids[neighbour.index]);
                entry.append(true);
            }
            out.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    };
    Ok(create_udf("nearest", vec![embedding, DataType::Int64], result, Volatility::Immutable, Arc::new(search)))
}
