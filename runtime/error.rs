/// What a call into the engine returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way the runtime can fail. Each failure names the node, tensor or device it concerns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Operands do not fit the op; raised while a graph is built.
    #[error("{node}: {op}: {reason}")]
    Mismatch {
        /// Path of the node in the checkpoint.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// What was wanted and what was there.
        reason: String,
    },
    /// A tensor handed to a call has another shape or dtype than the call needs.
    #[error("{name}: wanted {want}, got {got}")]
    Tensor {
        /// Which operand.
        name: String,
        /// Shape and dtype that were needed.
        want: String,
        /// Shape and dtype that were given.
        got: String,
    },
    /// A call was made with the wrong number or names of operands.
    #[error("{0}")]
    Call(String),
    /// No kernel of the op fits the shapes on this device.
    #[error("{node}: no {target} kernel of {op} fits {inputs} (considered: {considered})")]
    NoVariant {
        /// Path of the node in the checkpoint.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// Which kernel language the device takes.
        target: &'static str,
        /// The operands.
        inputs: String,
        /// Names of the variants that were tried.
        considered: String,
    },
    /// A variant lowered to something that its device cannot run: a defect of that variant.
    #[error("{node}: {op}:{variant} is not launchable: {reason}")]
    Lowering {
        /// Path of the node in the checkpoint.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// Name of the variant.
        variant: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that lies within another one does not begin where the device can bind memory.
    #[error("{node}: a part begins at byte {offset}, where this device binds at multiples of {align}")]
    Misaligned {
        /// Path of the node, or name of the operand.
        node: String,
        /// First byte of the part.
        offset: u64,
        /// The device's multiple.
        align: u64,
    },
    /// A kernel source was refused by the device's compiler.
    #[error("{file}: the device's compiler refused it: {message}")]
    Compile {
        /// Source file of the kernel.
        file: &'static str,
        /// The compiler's message.
        message: String,
    },
    /// There is no such device, or it cannot be used.
    #[error("device {name}: {reason}")]
    NoDevice {
        /// The name that was asked for.
        name: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// The device has too little memory.
    #[error("{device}: out of memory: {wanted} bytes wanted for {what}{}", limit.map(|l| format!(", limit {l} bytes")).unwrap_or_default())]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        wanted: u64,
        /// The device's limit, where it is known.
        limit: Option<u64>,
    },
    /// The device stopped working (reset, unplugged, driver failure). The process stays usable; the device does not.
    #[error("{device}: device lost: {reason}")]
    DeviceLost {
        /// Name of the device.
        device: String,
        /// The driver's words.
        reason: String,
    },
    /// The driver reported an error.
    #[error("{device}: {reason}")]
    Driver {
        /// Name of the device.
        device: String,
        /// The driver's words.
        reason: String,
    },
    /// Something a caller may reasonably ask for, but which does not exist here.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A weight could not be materialised.
    #[error("weight {name}: {reason}")]
    Weight {
        /// Name of the tensor in its checkpoint.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}
