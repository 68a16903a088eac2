//! Named ranges for tools that watch a process (nsys, ncu): what NVIDIA's header-only NVTX does, in the little that is used of it.
//!
//! A tool names a library in `NVTX_INJECTION64_PATH`. It is loaded once and asked to put its functions into tables of ours;
//! the protocol is that of `nvtxInit.h` and `nvtxTypes.h` of NVTX 3. Where no tool watches, nothing is loaded and no range is made.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Modules of functions that a tool may ask for, from 1 on, by their number of slots; slot 0 of each is unused.
const MODULES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];

/// The module that holds ranges, and two of its slots.
const CORE: usize = 1;
const PUSH: usize = 9;
const POP: usize = 11;

/// Tables that a tool may ask for by number.
const CALLBACKS: u32 = 1;
const VERSION: u32 = 3;

/// Version of NVTX whose protocol this is.
const NVTX: u32 = 3;

/// Slots of one module, into which the tool writes.
const MOST: usize = 16;
type Slots = [AtomicPtr<c_void>; MOST];
static SLOTS: [Slots; MODULES.len()] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST] }; MODULES.len()];

/// Addresses of a module's slots, and a null at the end.
type Table = [AtomicPtr<AtomicPtr<c_void>>; MOST + 1];
static TABLES: [Table; MODULES.len()] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST + 1] }; MODULES.len()];

#[repr(C)]
struct Callbacks {
    bytes: usize,
    module: extern "C" fn(c_int, *mut *const Table, *mut u32) -> c_int,
}

#[repr(C)]
struct Version {
    bytes: usize,
    version: u32,
    reserved: u32,
    set: extern "C" fn(u32),
}

static OF_CALLBACKS: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), module };
static OF_VERSION: Version = Version { bytes: size_of::<Version>(), version: NVTX, reserved: 0, set: ignore };

extern "C" fn ignore(_: u32) {}

/// Gives a tool the table of a module's slots and their number; 0 where there is no such module.
extern "C" fn module(number: c_int, table: *mut *const Table, size: *mut u32) -> c_int {
    let known = usize::try_from(number).ok().filter(|n| (1..MODULES.len()).contains(n));
    let Some(number) = known else { return 0 };
    // SAFETY: the protocol lets both be null, and has them point to variables of the caller where they are not.
    unsafe {
        if let Some(size) = size.as_mut() {
            *size = MODULES[number] as u32;
        }
        if let Some(table) = table.as_mut() {
            *table = &raw const TABLES[number];
        }
    }
    1
}

extern "C" fn export(number: u32) -> *const c_void {
    match number {
        CALLBACKS => (&raw const OF_CALLBACKS).cast(),
        VERSION => (&raw const OF_VERSION).cast(),
        _ => std::ptr::null(),
    }
}

/// Begins a range of this name, and ends the last one that was begun.
type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

/// The functions of a tool that watches.
pub(super) struct Tool {
    push: Push,
    pop: Pop,
    _library: libloading::Library,
}

/// The tool that watches this process, or why there is none.
pub(super) fn tool() -> &'static Result<Tool, String> {
    static TOOL: OnceLock<Result<Tool, String>> = OnceLock::new();
    TOOL.get_or_init(|| {
        let path = std::env::var_os("NVTX_INJECTION64_PATH").map(PathBuf::from);
        let path = path.ok_or("no tool watches: NVTX_INJECTION64_PATH is not set")?;
        attach(&path).map_err(|e| format!("{}: {e}", path.display())).inspect_err(|e| tracing::warn!("NVTX: {e}"))
    })
}

/// What the loader says, which stands in the error's source.
fn why(e: libloading::Error) -> String {
    std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)
}

fn attach(path: &std::path::Path) -> Result<Tool, String> {
    for (module, slots) in SLOTS.iter().enumerate() {
        for (to, slot) in TABLES[module].iter().zip(slots).take(MODULES[module]).skip(1) {
            to.store((&raw const *slot).cast_mut(), Ordering::Relaxed);
        }
    }
    type Initialise = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
    // SAFETY: whoever set the variable wants this library's code in the process. The function of this name has this type by
    // the protocol, and gets nothing of ours but statics, which live and may be written to as long as the process.
    let (library, done) = unsafe {
        let library = libloading::Library::new(path).map_err(why)?;
        let initialise = library.get::<Initialise>(b"InitializeInjectionNvtx2\0").map_err(why)?;
        let done = initialise(export);
        (library, done)
    };
    if done == 0 {
        return Err("it refuses to watch".into());
    }
    let slot = |of: usize| SLOTS[CORE][of].load(Ordering::Acquire);
    let (push, pop) = (slot(PUSH), slot(POP));
    if push.is_null() || pop.is_null() {
        return Err("it takes no ranges".into());
    }
    // SAFETY: the tool has put functions of these types into these slots, by the protocol, and stays loaded.
    let (push, pop) =
        unsafe { (std::mem::transmute::<*mut c_void, Push>(push), std::mem::transmute::<*mut c_void, Pop>(pop)) };
    Ok(Tool { push, pop, _library: library })
}

impl Tool {
    /// A range of this thread that lasts until what is returned is dropped.
    pub fn range(&self, name: &CStr) -> Range<'_> {
        // SAFETY: a function of the tool, which copies the name before it returns.
        unsafe { (self.push)(name.as_ptr()) };
        Range(self)
    }
}

/// An open range.
pub(super) struct Range<'t>(&'t Tool);

impl Drop for Range<'_> {
    fn drop(&mut self) {
        // SAFETY: a function of the tool. Ranges of a thread end in the opposite order of their begin, as values are dropped.
        unsafe { (self.0.pop)() };
    }
}

/// A path as the name of a range.
pub(super) fn name(path: &str) -> CString {
    // No path holds a zero byte; one that did would lose it.
    CString::new(path.replace('\0', "")).unwrap_or_default()
}
