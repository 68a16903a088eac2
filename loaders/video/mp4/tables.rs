//! The tables of an MP4 file, looked at in place: nothing is allocated by what they claim.

use std::ops::Range;

/// A box of the tree: its name and where its content lies.
struct Part {
    name: [u8; 4],
    body: Range<usize>,
}

/// Boxes of one level. Ends at the first that is cut short.
struct Level<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl Iterator for Level<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let head = self.file.get(self.at..self.end)?.get(..8)?;
        let name = [head[4], head[5], head[6], head[7]];
        let (length, mut body) = (u64::from(number(head, 0)?), self.at + 8);
        let end = match length {
            0 => self.end,
            1 => {
                body += 8;
                let (high, low) = (number(self.file, self.at + 8)?, number(self.file, self.at + 12)?);
                self.at.checked_add(usize::try_from(u64::from(high) << 32 | u64::from(low)).ok()?)?
            }
            _ => self.at.checked_add(usize::try_from(length).ok()?)?,
        };
        if end < body || end > self.end {
            return None;
        }
        self.at = end;
        Some(Part { name, body: body..end })
    }
}

fn level(file: &[u8], within: Range<usize>) -> Level<'_> {
    Level { file, at: within.start, end: within.end.min(file.len()) }
}

/// The content of the box at a path of names.
fn find(file: &[u8], within: Range<usize>, path: &[&[u8; 4]]) -> Option<Range<usize>> {
    path.iter()
        .try_fold(within, |within, name| level(file, within).find(|part| part.name == **name).map(|part| part.body))
}

/// A big-endian number of 32 bits.
fn number(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*file.get(at..)?.first_chunk()?))
}

/// A table of rows of `width` bytes whose count is believed only if they are all there.
#[derive(Clone, Debug)]
struct Rows {
    start: usize,
    width: usize,
    count: usize,
}

impl Rows {
    /// A table whose count stands `skip` bytes into a box.
    fn of(file: &[u8], body: Range<usize>, skip: usize, width: usize) -> Option<Rows> {
        let count = number(file, body.start + skip)? as usize;
        let start = body.start + skip + 4;
        (count.checked_mul(width)? <= body.end.checked_sub(start)?).then_some(Rows { start, width, count })
    }

    /// Column `column` of 32 bits in row `row`.
    fn at(&self, file: &[u8], row: usize, column: usize) -> Option<u32> {
        if row < self.count { number(file, self.start + row * self.width + column * 4) } else { None }
    }
}

/// The video track of a file.
#[derive(Clone, Debug)]
pub(crate) struct Movie {
    /// Units of a second.
    pub(crate) units: u32,
    /// Units that all samples take together.
    pub(crate) duration: u64,
    /// How many samples there are.
    pub(crate) count: usize,
    /// Quarter turns to the right that a player makes.
    pub(crate) turns: u8,
    /// Sequence and picture parameter sets.
    pub(crate) sets: Vec<Range<usize>>,
    /// Bytes of the length before each unit of a sample.
    pub(crate) length_bytes: usize,
    /// Length of every sample, or 0 where each has its own.
    equal: u32,
    sizes: Option<Rows>,
    chunks: Rows,
    runs: Rows,
}

impl Movie {
    /// Finds the first video track and checks its tables against each other.
    ///
    /// # Errors
    /// There is none, it is not H.264, or its tables lie.
    pub(crate) fn of(file: &[u8]) -> Result<Movie, String> {
        let whole = 0..file.len();
        let moov = find(file, whole.clone(), &[b"moov"]).ok_or("it has no box moov, or is cut short")?;
        if find(file, whole, &[b"moof"]).is_some() {
            return Err("it is fragmented".into());
        }
        let video = |track: &Part| {
            let kind = find(file, track.body.clone(), &[b"mdia", b"hdlr"]);
            track.name == *b"trak" && kind.is_some_and(|h| file.get(h.start + 8..h.start + 12) == Some(b"vide"))
        };
        let track = level(file, moov).find(video).ok_or("it has no video track")?.body;
        let media = find(file, track.clone(), &[b"mdia"]).ok_or("its track has no media")?;
        let table = find(file, media.clone(), &[b"minf", b"stbl"]).ok_or("its track has no tables")?;
        let (sets, length_bytes) = entry(file, table.clone())?;
        let rows = |name: &[u8; 4], skip, width| {
            let body = find(file, table.clone(), &[name])?;
            Rows::of(file, body, skip, width)
        };
        let read = || {
            let header = find(file, media.clone(), &[b"mdhd"])?;
            let units = number(file, header.start + if file.get(header.start)? == &1 { 20 } else { 12 })?;
            let size_body = find(file, table.clone(), &[b"stsz"])?;
            let equal = number(file, size_body.start + 4)?;
            let count = number(file, size_body.start + 8)? as usize;
            let sizes = if equal == 0 { Some(Rows::of(file, size_body, 8, 4)?) } else { None };
            let chunks = rows(b"co64", 4, 8).or_else(|| rows(b"stco", 4, 4))?;
            let times = rows(b"stts", 4, 8)?;
            let mut duration = 0u64;
            for row in 0..times.count {
                let (samples, each) = (times.at(file, row, 0)?, times.at(file, row, 1)?);
                duration = duration.checked_add(u64::from(samples) * u64::from(each))?;
            }
            let runs = rows(b"stsc", 4, 12)?;
            let turns = 0;
            Some(Movie { units, duration, count, turns, sets, length_bytes, equal, sizes, chunks, runs })
        };
        let mut movie = read().ok_or("a table of its track is missing or cut short")?;
        // A sample takes at least one byte of the file.
        if movie.count == 0 || movie.count > file.len() {
            return Err(format!("its track claims {} frames", movie.count));
        }
        movie.turns = turns(file, track)?;
        Ok(movie)
    }

    /// Where the samples lie, one after another, as the tables say; none of it is checked.
    pub(crate) fn samples(&self) -> Samples {
        Samples { sample: 0, chunk: 0, run: 0, left: 0, at: 0 }
    }
}

/// Parameter sets of the track's one way of coding.
fn entry(file: &[u8], table: Range<usize>) -> Result<(Vec<Range<usize>>, usize), String> {
    let missing = "its track does not say how it is coded";
    let described = find(file, table, &[b"stsd"]).ok_or(missing)?;
    let mut entries = level(file, described.start.saturating_add(8)..described.end);
    let entry = entries.next().ok_or(missing)?;
    if !matches!(&entry.name, b"avc1" | b"avc3") {
        return Err(format!("it is coded as {}, not as H.264", entry.name.escape_ascii()));
    }
    if entries.next().is_some() {
        return Err("its coding changes midway".into());
    }
    let fields = 78;
    let set = find(file, entry.body.start.saturating_add(fields)..entry.body.end, &[b"avcC"]).ok_or(missing)?;
    let body = file.get(set.clone()).ok_or(missing)?;
    let read = || {
        let (mut at, mut sets) = (5, Vec::new());
        for mask in [0x1F, 0xFF] {
            let count = body.get(at)? & mask;
            at += 1;
            for _ in 0..count {
                let length = usize::from(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
                at += 2;
                body.get(at..at + length)?;
                sets.push(set.start + at..set.start + at + length);
                at += length;
            }
        }
        Some((sets, usize::from(body.get(4)? & 3) + 1))
    };
    read().ok_or_else(|| "its parameter sets are cut short".into())
}

/// Quarter turns of the track's matrix.
fn turns(file: &[u8], track: Range<usize>) -> Result<u8, String> {
    let missing = "its track has no header";
    let header = find(file, track, &[b"tkhd"]).ok_or(missing)?;
    let wide = file.get(header.start) == Some(&1);
    let matrix = header.start + if wide { 52 } else { 40 };
    let [a, b, c, d] = [0, 4, 12, 16].map(|at| number(file, matrix + at).map(|v| v as i32));
    const ONE: i32 = 0x1_0000;
    match [a, b, c, d].map(|v| v.unwrap_or(0)) {
        [ONE, 0, 0, ONE] => Ok(0),
        [0, ONE, m, 0] if m == -ONE => Ok(1),
        [x, 0, 0, y] if x == -ONE && y == -ONE => Ok(2),
        [0, m, ONE, 0] if m == -ONE => Ok(3),
        other => Err(format!("its track is drawn through the matrix {other:?}")),
    }
}

/// A place in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    sample: usize,
    chunk: usize,
    run: usize,
    /// Samples left in the chunk.
    left: u32,
    at: u64,
}

impl Samples {
    /// Where the next sample lies: none at the end, and an error where the tables don't lead to one within the file.
    pub(crate) fn next(&mut self, movie: &Movie, file: &[u8]) -> Option<Result<Range<usize>, String>> {
        if self.sample == movie.count {
            return None;
        }
        let found = self.find(movie, file);
        self.sample += 1;
        Some(found.ok_or_else(|| format!("its tables lead to no frame {}", self.sample - 1)))
    }

    fn find(&mut self, movie: &Movie, file: &[u8]) -> Option<Range<usize>> {
        while self.left == 0 {
            let wide = movie.chunks.width == 8;
            let low = movie.chunks.at(file, self.chunk, usize::from(wide))?;
            let high = if wide { movie.chunks.at(file, self.chunk, 0)? } else { 0 };
            self.at = u64::from(high) << 32 | u64::from(low);
            // Chunks are counted from 1; a run holds until the next begins.
            while movie.runs.at(file, self.run + 1, 0).is_some_and(|first| first as usize <= self.chunk + 1) {
                self.run += 1;
            }
            self.left = movie.runs.at(file, self.run, 1)?;
            self.chunk += 1;
        }
        let size = match &movie.sizes {
            Some(sizes) => sizes.at(file, self.sample, 0)?,
            None => movie.equal,
        };
        let start = usize::try_from(self.at).ok()?;
        let range = start..start.checked_add(size as usize)?;
        file.get(range.clone())?;
        self.left -= 1;
        self.at += u64::from(size);
        Some(range)
    }
}
