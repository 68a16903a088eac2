//! Choosing a kernel for every node, and checking that the device can launch it.

use std::collections::HashMap;

use crate::backend::{Caps, Target};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Origin, Value};
use crate::op::{Arg, Code, Lowering, Op, Site, Slot, Summary, Variant};
use crate::tensor::TensorDesc;
use crate::tuned::{self, Table, Winner};

/// Which variants to prefer over what was measured and over the default order: `attention:simple,conv2d:tiled@4x64`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pins {
    rules: Vec<(String, String)>,
    /// A pinned variant that does not fit is an error, instead of giving way to the default order.
    pub strict: bool,
}

impl Pins {
    /// Reads `op:variant,op:variant`.
    ///
    /// # Errors
    /// A part without a colon.
    pub fn parse(text: &str) -> Result<Pins> {
        let rule = |part: &str| match part.trim().split_once(':') {
            Some((op, variant)) => Ok((op.to_string(), variant.to_string())),
            None => Err(Error::Call(format!("pin {part:?} is not of the form op:variant"))),
        };
        let rules = text.split(',').filter(|p| !p.trim().is_empty()).map(rule).collect::<Result<_>>()?;
        Ok(Pins { rules, strict: false })
    }

    /// Reads the environment variable `MUYBRIDGE_PIN`.
    ///
    /// # Errors
    /// A part without a colon.
    pub fn from_env() -> Result<Pins> {
        std::env::var("MUYBRIDGE_PIN").map_or_else(|_| Ok(Pins::default()), |text| Pins::parse(&text))
    }

    /// Exactly this variant of this op, or an error.
    pub fn exactly(op: &str, variant: &str) -> Pins {
        Pins { rules: vec![(op.into(), variant.into())], strict: true }
    }

    fn get(&self, op: &str) -> Option<&str> {
        self.rules.iter().find(|(o, _)| o == op).map(|(_, v)| v.as_str())
    }
}

/// A node with the kernel chosen for it.
pub(super) struct Lowered {
    pub variant: Variant,
    pub tile: Option<&'static str>,
    pub tuned: bool,
    pub lowering: Lowering,
}

pub(super) fn lower_all(graph: &Graph, device: &Device, pins: &Pins) -> Result<Vec<Lowered>> {
    let table = device.tuned();
    // Networks repeat their shapes.
    let mut winners = HashMap::new();
    let mut lowered: Vec<Lowered> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let mut offers = offers(graph, node, device.caps(), &lowered);
        let summaries: Vec<_> = offers.iter().map(|o| o.as_ref().and_then(|(_, l)| l.summary.clone())).collect();
        let tuned = table.as_deref().map(|t| (t, &mut winners));
        let own = lower_node(graph, node, device.caps(), pins, tuned, &summaries)?;
        // Summaries that are read must be made.
        for arg in own.lowering.launches.iter().flat_map(|l| &l.args) {
            let Slot::SummaryOf(k) = arg.slot else { continue };
            if let Some((maker, lowering)) = offers.get_mut(k).and_then(Option::take) {
                lowered[maker].lowering = lowering;
            }
        }
        lowered.push(own);
    }
    Ok(lowered)
}

/// For each operand, the node that makes it and its launches with a summary of it, where this node could read one and that node
/// has one.
fn offers(graph: &Graph, node: &Node, caps: &Caps, lowered: &[Lowered]) -> Vec<Option<(usize, Lowering)>> {
    let offer = |(k, v): (usize, &Value)| {
        let Origin::Node(maker) = *graph.origin(*v) else { return None };
        if !node.op.reads_summary(k) {
            return None;
        }
        let (own, made) = (&graph.nodes[maker], &lowered[maker]);
        if made.lowering.summary.is_some() {
            return Some((maker, made.lowering.clone()));
        }
        let operands = Operands::of(graph, own);
        let site = Site { tile: made.tile, summarise: true, ..operands.site(caps, &[]) };
        let lowering = own.op.lower(&made.variant, &site).filter(|l| l.summary.is_some())?;
        // It may itself read summaries, which this site does not offer; and the device may have no room for more.
        let alike = lowering.launches.len() == made.lowering.launches.len();
        (alike && launchable(&lowering, &made.variant, &site).is_ok()).then_some((maker, lowering))
    };
    node.inputs.iter().enumerate().map(offer).collect()
}

/// A node's operands as its op sees them.
struct Operands {
    inputs: Vec<TensorDesc>,
    is_weight: Vec<bool>,
    output: TensorDesc,
}

impl Operands {
    fn of(graph: &Graph, node: &Node) -> Operands {
        let is_weight = |v: &Value| matches!(graph.origin(*v), Origin::Weight(_));
        Operands {
            inputs: node.inputs.iter().map(|v| graph.desc(*v)).collect(),
            is_weight: node.inputs.iter().map(is_weight).collect(),
            output: graph.desc(node.output),
        }
    }

    fn site<'a>(&'a self, caps: &'a Caps, summaries: &'a [Option<Summary>]) -> Site<'a> {
        let Operands { inputs, is_weight, output } = self;
        Site { inputs, is_weight, output: *output, caps, tile: None, summarise: false, summaries }
    }
}

/// Winners found so far, by key.
type Winners = HashMap<String, Option<Winner>>;

fn lower_node(
    graph: &Graph,
    node: &Node,
    caps: &Caps,
    pins: &Pins,
    tuned: Option<(&Table, &mut Winners)>,
    summaries: &[Option<Summary>],
) -> Result<Lowered> {
    let operands = Operands::of(graph, node);
    let site = operands.site(caps, summaries);
    let mut candidates = Candidates::new(&*node.op, caps.target);
    match pins.get(node.op.name()) {
        Some(pin) => candidates.pin(&*node.op, caps.target, pin, pins.strict),
        None => {
            let find = |(table, winners): (&Table, &mut Winners)| {
                let key = tuned::key(&*node.op, &site);
                let winner = winners.entry(key).or_insert_with_key(|key| table.winner(key, &*node.op, &site));
                *winner
            };
            candidates.tuned = tuned.and_then(find);
        }
    }
    for (variant, tile, tuned) in candidates.iter() {
        let site = Site { tile, ..site };
        if let Some(lowering) = node.op.lower(variant, &site) {
            let ok = launchable(&lowering, variant, &site);
            ok.map_err(|reason| Error::Lowering {
                node: node.path.clone(),
                op: node.op.name(),
                variant: variant.name,
                reason,
            })?;
            return Ok(Lowered { variant: *variant, tile, tuned, lowering });
        }
    }
    Err(Error::NoVariant {
        node: node.path.clone(),
        op: node.op.name(),
        target: caps.target.name(),
        inputs: operands.inputs.iter().map(TensorDesc::to_string).collect::<Vec<_>>().join(" "),
        considered: candidates.iter().map(|(v, ..)| v.name).collect::<Vec<_>>().join(", "),
    })
}

/// Kernels to try for a node, in order.
struct Candidates {
    /// What a measurement chose.
    tuned: Option<Winner>,
    /// A pinned tiling of the first of `variants`.
    tile: Option<&'static str>,
    variants: Vec<&'static Variant>,
}

impl Candidates {
    fn new(op: &dyn Op, target: Target) -> Candidates {
        let variants = op.variants().iter().filter(|v| v.target == target && !op.by_pin(v)).collect();
        Candidates { tuned: None, tile: None, variants }
    }

    /// Puts `variant` or `variant@tiling` first; with `only`, drops the others.
    fn pin(&mut self, op: &dyn Op, target: Target, pin: &str, only: bool) {
        let (name, tile) = pin.split_once('@').map_or((pin, None), |(name, tile)| (name, Some(tile)));
        let asked = |v: &&Variant| v.target == target && v.name == name && op.by_pin(v);
        self.variants.extend(op.variants().iter().filter(asked));
        self.variants.sort_by_key(|v| v.name != name);
        if only {
            self.variants.retain(|v| v.name == name);
        }
        let pinned = self.variants.first().filter(|v| v.name == name);
        self.tile = pinned.and_then(|v| tile.and_then(|t| op.tiles(v).iter().copied().find(|own| *own == t)));
        if only && tile.is_some() && self.tile.is_none() {
            self.variants.clear();
        }
    }

    /// Variant, tiling, and whether a measurement chose them.
    fn iter(&self) -> impl Iterator<Item = (&'static Variant, Option<&'static str>, bool)> {
        let tuned = self.tuned.map(|w| (w.variant, w.tile, true));
        let pinned = self.tile.and_then(|tile| Some((*self.variants.first()?, Some(tile), false)));
        tuned.into_iter().chain(pinned).chain(self.variants.iter().map(|v| (*v, None, false)))
    }
}

/// Checks a lowering against the device's limits, so that a driver never sees an invalid launch.
fn launchable(lowering: &Lowering, variant: &Variant, site: &Site<'_>) -> Result<(), String> {
    let caps = site.caps;
    let whole = site.inputs.iter().chain([&site.output]).all(|d| d.bytes() <= caps.max_binding)
        && lowering.scratch <= caps.max_binding;
    if whole && lowering.launches.len() > variant.launches as usize {
        return Err(format!("{} launches, {} declared", lowering.launches.len(), variant.launches));
    }
    for launch in &lowering.launches {
        if matches!(launch.code, Code::Host(_)) != (caps.target == Target::Cpu) {
            return Err("code for another kind of device".into());
        }
        if let Some(g) = launch.grid.iter().find(|&&g| g == 0 || g > caps.max_workgroups) {
            return Err(format!("{g} workgroups in one dimension (1..={})", caps.max_workgroups));
        }
        let block: u32 = launch.block.iter().product();
        if block == 0 || block > caps.max_invocations || launch.shared > caps.max_shared {
            return Err(format!("{block} invocations, {} shared bytes", launch.shared));
        }
        if launch.args.len() > caps.max_storage_bindings as usize {
            return Err(format!("{} bindings of {}", launch.args.len(), caps.max_storage_bindings));
        }
        for map in &launch.maps {
            let size = launch.args.get(map.arg).and_then(|arg| operand_bytes(arg, lowering, site));
            let bytes = map.extents.iter().map(|n| u64::from(*n)).product::<u64>() * 2;
            let [columns, rows @ ..] = map.of_box;
            let in_reach = |n: &u32| (1..=256).contains(n);
            let fits = matches!(columns, 8 | 64) && rows.iter().all(in_reach) && map.extents[0].is_multiple_of(8);
            if size.is_none_or(|s| bytes > s) || !fits {
                return Err(format!("boxes of {:?}, which has {size:?} bytes: {map:?}", map.arg));
            }
        }
        for arg in &launch.args {
            let size = operand_bytes(arg, lowering, site).ok_or("an argument names no operand")?;
            let end = arg.offset.checked_add(arg.bytes.unwrap_or(size.saturating_sub(arg.offset)));
            let len = end.map_or(0, |e| e - arg.offset);
            if end.is_none_or(|e| e > size.next_multiple_of(16)) || len > caps.max_binding {
                return Err(format!("bytes {}..+{len} of {:?}, which has {size}", arg.offset, arg.slot));
            }
            if arg.offset % caps.binding_align != 0 {
                return Err(format!(
                    "{:?} is bound at {}, not a multiple of {}",
                    arg.slot, arg.offset, caps.binding_align
                ));
            }
        }
    }
    Ok(())
}

/// Bytes of an argument's operand in the layout that the kernel sees.
fn operand_bytes(arg: &Arg, lowering: &Lowering, site: &Site<'_>) -> Option<u64> {
    match arg.slot {
        Slot::Input(i) => match lowering.prepare.iter().find(|(p, _)| *p == i) {
            Some((_, prepare)) => Some(prepare.desc.bytes()),
            None => site.inputs.get(i).map(TensorDesc::bytes),
        },
        Slot::Output => Some(site.output.bytes()),
        Slot::Scratch => Some(lowering.scratch),
        Slot::Counters => Some(lowering.counters),
        Slot::Summary => lowering.summary.as_ref().map(|s| s.bytes),
        Slot::SummaryOf(i) => site.summaries.get(i)?.as_ref().map(|s| s.bytes),
    }
}
