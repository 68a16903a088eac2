//! What the CPU kernels share: vector width, threads, storage types, pointwise functions and the matrix product.
//!
//! Loops are plain Rust over slices, compiled once per instruction set and chosen at run time ([`vectorised!`]); only the
//! product's inner tile names vector registers. There is no `unsafe` here and nothing that a build for one processor would
//! not run on another.

/// Defines functions that are compiled once per instruction set; a call takes the widest that this processor has.
///
/// All borrows share the one lifetime. What the body calls must be `#[inline(always)]` or tiny, and its loops must be `for`
/// loops: anything that the compiler leaves as a call, like a closure, is compiled for the oldest processor, with `mul_add` as
/// a library call.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$l:lifetime>($($arg:ident: $type:ty),*) -> $result:ty $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name<$l>($($arg: $type),*) -> $result {
            struct Body<$l>($($type,)* std::marker::PhantomData<&$l ()>);
            impl<$l> pulp::WithSimd for Body<$l> {
                type Output = $result;
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $result {
                    let Body($($arg,)* _) = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Body($($arg,)* std::marker::PhantomData))
        }
    )*};
}
pub(crate) use vectorised;

pub(crate) mod epilogue;
pub(crate) mod gemm;
pub(crate) mod math;
pub(crate) mod panel;
pub(crate) mod product;
pub(crate) mod storage;

use std::sync::Mutex;

use pulp::{Arch, Simd, WithSimd};

/// f32 lanes of a vector register, and how many vectors wide a panel of the product is here.
pub(crate) fn vectors() -> (usize, usize) {
    struct Probe;
    impl WithSimd for Probe {
        type Output = (usize, usize);
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
            // Six rows of four vectors of sums need 29 registers, six rows of two need 15.
            (S::F32_LANES, if S::REGISTER_COUNT >= 32 { 4 } else { 2 })
        }
    }
    Arch::new().dispatch(Probe)
}

/// A call's scratch as f32. It is aligned for it, but a call without any gets an empty slice from anywhere.
pub(crate) fn floats(scratch: &mut [u8]) -> &mut [f32] {
    if scratch.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(scratch) }
}

/// Hands the items out to the pool's threads as they come free; each thread works in its own `each` elements of `scratch`.
///
/// Taking turns at a queue rather than splitting the items evenly: cores differ in speed and in what else they do.
pub(crate) fn for_each<I>(items: I, scratch: &mut [f32], each: usize, work: impl Fn(I::Item, &mut [f32]) + Sync)
where
    I: Iterator + Send,
{
    let threads = rayon::current_num_threads();
    let queue = Mutex::new(items);
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
    let drain = |own: &mut [f32]| {
        while let Some(item) = next() {
            work(item, own);
        }
    };
    let mut rest = scratch;
    rayon::scope(|scope| {
        for thread in 0..threads {
            if thread > 0 && rest.len() < each {
                break;
            }
            let (own, more) = std::mem::take(&mut rest).split_at_mut(each);
            rest = more;
            scope.spawn(|_| drain(own));
        }
    });
}

/// Rows per task for about so many tasks of equal size, each a multiple of `step` and at most `most`.
pub(crate) fn rows_per_task(rows: usize, tasks: usize, step: usize, most: usize) -> usize {
    // Small tasks would read the other operand too often: rather half as many.
    let few = rows.div_ceil(tasks.div_ceil(2).max(1)).min(64);
    let share = rows.div_ceil(tasks.max(1)).max(few).next_multiple_of(step);
    let most = (most / step * step).max(step);
    if share <= most {
        return share;
    }
    // Even out the tasks: no short one at the end.
    rows.div_ceil(rows.div_ceil(most)).next_multiple_of(step)
}
