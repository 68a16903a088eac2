//! What the functions that a pickle may name do: rules, not programs.

use crate::torch::known::Known;
use crate::torch::pickle::{Id, MOST_KEY, MOST_STEPS, Machine, Node, Storage, Tensor};

/// Most extents of a tensor, and most arguments of a function.
const MOST_RANK: usize = 16;

impl Machine<'_> {
    fn items(&self, id: Id) -> Option<&[Id]> {
        match &self.nodes[id as usize] {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A call of a name that is known: a rule, not a program.
    pub(super) fn call(&mut self, called: Id, arguments: Id) -> Result<Node, String> {
        let Node::Known(known) = self.nodes[called as usize] else { return Err("it calls what is no function".into()) };
        let arguments = self.items(arguments).ok_or("it calls with what are no arguments")?;
        if arguments.len() > MOST_RANK {
            return Err("it calls with more arguments than any function takes".into());
        }
        let arguments = arguments.to_vec();
        let wrong = || format!("it calls {} with arguments that this does not take", known.name());
        match known {
            Known::OrderedDict => match &arguments[..] {
                [] => Ok(Node::Dict(Vec::new())),
                [pairs] => {
                    let pairs = self.pairs(*pairs).ok_or_else(wrong)?;
                    self.copied += pairs.len();
                    if self.copied > MOST_STEPS {
                        Err("it copies one list over and over".into())
                    } else {
                        Ok(Node::Dict(pairs))
                    }
                }
                _ => Err(wrong()),
            },
            Known::Rebuild | Known::RebuildTyped | Known::RebuildOld => {
                self.tensor(known, &arguments).ok_or_else(wrong)
            }
            Known::Parameter => match arguments.first().map(|id| &self.nodes[*id as usize]) {
                Some(Node::Tensor(tensor)) => Ok(Node::Tensor(tensor.clone())),
                _ => Err(wrong()),
            },
            Known::Inert => Ok(Node::Other),
            Known::Storage(_) | Known::Untyped | Known::Type(_) | Known::Class => Err(wrong()),
        }
    }

    /// Pairs of a list, as Python 2 stores an ordered dictionary.
    fn pairs(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        let Node::List(list) = &self.nodes[id as usize] else { return None };
        let pair = |id: &Id| match &self.nodes[*id as usize] {
            Node::List(pair) | Node::Tuple(pair) => <[Id; 2]>::try_from(&pair[..]).ok().map(|[k, v]| (k, v)),
            _ => None,
        };
        list.iter().map(pair).collect()
    }

    fn extents(&self, id: Id) -> Option<Vec<u64>> {
        let extent = |id: &Id| match self.nodes[*id as usize] {
            Node::Int(value) => u64::try_from(value).ok(),
            _ => None,
        };
        let items = self.items(id).filter(|items| items.len() <= MOST_RANK)?;
        items.iter().map(extent).collect()
    }

    /// `(storage, offset, size, stride, …)`, and the type after the hooks where the storage has none.
    fn tensor(&self, known: Known, arguments: &[Id]) -> Option<Node> {
        let [storage, offset, size, stride, rest @ ..] = arguments else { return None };
        let Node::Storage(Storage { dtype, .. }) = &self.nodes[*storage as usize] else { return None };
        let Node::Int(offset) = self.nodes[*offset as usize] else { return None };
        let stated = match (known, rest) {
            (Known::RebuildTyped, [_, _, id, ..]) => match self.nodes[*id as usize] {
                Node::Known(Known::Type(dtype)) => Some(dtype),
                _ => return None,
            },
            (Known::RebuildTyped, _) => return None,
            _ => *dtype,
        };
        let (size, stride) = (self.extents(*size)?, self.extents(*stride)?);
        let tensor = Tensor { storage: *storage, dtype: stated?, offset: u64::try_from(offset).ok()?, size, stride };
        (tensor.size.len() == tensor.stride.len()).then_some(Node::Tensor(tensor))
    }

    /// `('storage', type, key, device, count, …)`.
    pub(super) fn storage(&self, id: Id) -> Result<Node, String> {
        let read = || {
            let [word, kind, key, _device, count, rest @ ..] = self.items(id)? else { return None };
            let text = |id: &Id| match &self.nodes[*id as usize] {
                Node::Text(range) if range.len() <= MOST_KEY => Some(range.clone()),
                _ => None,
            };
            let dtype = match self.nodes[*kind as usize] {
                Node::Known(Known::Storage(dtype)) => Some(dtype),
                Node::Known(Known::Untyped) => None,
                _ => return None,
            };
            let Node::Int(count) = self.nodes[*count as usize] else { return None };
            // Before 0.4 a storage could be a view of another one.
            let whole = rest.iter().all(|id| matches!(self.nodes[*id as usize], Node::None));
            let is = &self.bytes[text(word)?] == b"storage" && whole;
            is.then_some(Storage { key: text(key)?, dtype, count: u64::try_from(count).ok()? })
        };
        read().map(Node::Storage).ok_or_else(|| "it refers to something that is no storage".into())
    }
}
