//! A reader of pickles that executes nothing.
//!
//! A pickle is a program for a small stack machine (CPython, `Lib/pickletools.py`). This machine knows the instructions that
//! build numbers, texts, tuples, lists and dictionaries, and of the functions that a pickle may name only those of
//! [`Known`], each of which is a rule here that makes a [`Node`]. Everything else is refused by its name.
//!
//! Values live in one list and name each other by position, so that a pickle that refers to itself a million times over
//! costs what its instructions cost, and nothing recurses.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::tensor::Dtype;

use crate::error::shown;
use crate::torch::known::Known;

/// Position of a value.
pub(crate) type Id = u32;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// Something that is read and of no use here: a float, a long integer, bytes, a device, a NumPy scalar.
    Other,
    /// Text, as a range of the pickle.
    Text(Range<usize>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Known(Known),
    Storage(Storage),
    Tensor(Tensor),
}

/// A storage that a pickle refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Its key, as a range of the pickle.
    pub(crate) key: Range<usize>,
    /// The type of its elements; none where the tensors say.
    pub(crate) dtype: Option<Dtype>,
    /// Its elements; bytes where it has no type.
    pub(crate) count: u64,
}

/// A tensor: a view of a storage.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) storage: Id,
    pub(crate) dtype: Dtype,
    /// First element.
    pub(crate) offset: u64,
    pub(crate) size: Vec<u64>,
    /// Steps along each axis, in elements.
    pub(crate) stride: Vec<u64>,
}

/// Most instructions of a pickle. A checkpoint has about forty for each tensor.
pub(super) const MOST_STEPS: usize = 1 << 21;

/// Longest text that is a key, in bytes: a pickle may name one text a million times.
pub(crate) const MOST_KEY: usize = 4096;

/// A pickle that was read: its values, and which of them is the result.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) nodes: Vec<Node>,
    pub(crate) result: Id,
    /// Bytes that it took.
    pub(crate) length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle at the start of some bytes.
    ///
    /// # Errors
    /// It ends early, has an instruction or names something that is not known here, or is longer than any checkpoint's.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        for _ in 0..MOST_STEPS {
            let here = machine.at;
            let step = machine.step().map_err(|reason| format!("{reason}, at byte {here} of its pickle"))?;
            if let Some(result) = step {
                return Ok(Pickle { bytes, nodes: machine.nodes, result, length: machine.at });
            }
        }
        Err(format!("its pickle has more than {MOST_STEPS} instructions"))
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// The text of a value that is one, and no longer than keys are.
    pub(crate) fn text(&self, id: Id) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(range) if range.len() <= MOST_KEY => std::str::from_utf8(&self.bytes[range.clone()]).ok(),
            _ => None,
        }
    }
}

pub(super) struct Machine<'a> {
    pub(super) bytes: &'a [u8],
    at: usize,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Entries that were copied from one value to another.
    pub(super) copied: usize,
}

const EMPTY: &str = "its stack runs empty";

impl<'a> Machine<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or("it ends early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    /// A length of as many bytes as the instruction has.
    fn length<const N: usize>(&mut self) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.number::<N>()?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "it ends early".into())
    }

    fn line(&mut self) -> Result<Range<usize>, String> {
        let start = self.at;
        let length = self.bytes[start..].iter().position(|b| *b == b'\n').ok_or("it ends early")?;
        self.at += length + 1;
        Ok(start..start + length)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    fn push_text(&mut self, length: usize) -> Result<(), String> {
        let start = self.at;
        let taken = self.take(length)?;
        std::str::from_utf8(taken).map_err(|_| "a text is not UTF-8")?;
        self.push(Node::Text(start..start + length));
        Ok(())
    }

    fn push_other(&mut self, length: usize) -> Result<(), String> {
        self.take(length)?;
        self.push(Node::Other);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(EMPTY.into());
        }
        self.stack.pop().ok_or_else(|| EMPTY.into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("it has no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Node, String> {
        let id = *self.stack.last().ok_or(EMPTY)?;
        Ok(&mut self.nodes[id as usize])
    }

    fn tuple(&mut self, length: usize) -> Result<(), String> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<Id>, _>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Node::List(list) => list.extend(items),
            Node::Other => {}
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top()? {
            Node::Dict(entries) if rest.is_empty() => entries.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Node::Dict(_) => return Err("it sets a key without a value".into()),
            _ => return Err("it sets entries of what is no dictionary".into()),
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let id = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let id = *self.memo.get(&place).ok_or("it recalls what it has not remembered")?;
        self.stack.push(id);
        Ok(())
    }

    fn name(&mut self, module: &[u8], name: &[u8]) -> Result<(), String> {
        let (module, name) = (String::from_utf8_lossy(module), String::from_utf8_lossy(name));
        match Known::find(&module, &name) {
            Some(known) => self.push(Node::Known(known)),
            None => return Err(format!("it names {}.{}, which is not executed here", shown(&module), shown(&name))),
        }
        Ok(())
    }

    /// One instruction; the result, where it was the last.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.number::<1>()?[0] {
            0x80 => {
                let version = self.number::<1>()?[0];
                if version > 5 {
                    return Err(format!("it is of protocol {version}"));
                }
            }
            // A frame only tells how much to read ahead.
            0x95 => drop(self.number::<8>()?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.number()?);
                self.push(Node::Int(value.into()));
            }
            b'K' => {
                let value = self.length::<1>()?;
                self.push(Node::Int(value as i64));
            }
            b'M' => {
                let value = self.length::<2>()?;
                self.push(Node::Int(value as i64));
            }
            0x8A => {
                let length = self.length::<1>()?;
                let node = long(self.take(length)?);
                self.push(node);
            }
            b'G' => self.push_other(8)?,
            op => return self.step_texts(op).map(|()| None),
        }
        Ok(None)
    }

    fn step_texts(&mut self, op: u8) -> Result<(), String> {
        let length = match op {
            b'X' | b'T' | b'B' => self.length::<4>()?,
            0x8C | b'U' | b'C' => self.length::<1>()?,
            0x8D | 0x8E => self.length::<8>()?,
            _ => return self.step_memory(op),
        };
        match op {
            b'X' | 0x8C | 0x8D => self.push_text(length),
            // Texts of Python 2; those that are no UTF-8 are bytes.
            b'T' | b'U' if self.bytes.get(self.at..self.at.saturating_add(length)).is_some_and(|b| b.is_ascii()) => {
                self.push_text(length)
            }
            _ => self.push_other(length),
        }
    }

    fn step_memory(&mut self, op: u8) -> Result<(), String> {
        match op {
            b'q' => {
                let place = self.length::<1>()? as u32;
                self.remember(place)
            }
            b'r' => {
                let place = self.length::<4>()? as u32;
                self.remember(place)
            }
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => {
                let place = self.length::<1>()? as u32;
                self.recall(place)
            }
            b'j' => {
                let place = self.length::<4>()? as u32;
                self.recall(place)
            }
            _ => self.step_containers(op),
        }
    }

    fn step_containers(&mut self, op: u8) -> Result<(), String> {
        match op {
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8F => self.push(Node::Other),
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items));
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items));
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Dict(Vec::new()));
                self.set(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(&items)?;
            }
            _ => return self.step_names(op),
        }
        Ok(())
    }

    fn step_names(&mut self, op: u8) -> Result<(), String> {
        match op {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&self.bytes[module], &self.bytes[name])
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module as usize], &self.nodes[name as usize]) {
                    (Node::Text(module), Node::Text(name)) => {
                        let bytes = self.bytes;
                        self.name(&bytes[module.clone()], &bytes[name.clone()])
                    }
                    _ => Err("it names something without a name".into()),
                }
            }
            b'R' => {
                let (arguments, called) = (self.pop()?, self.pop()?);
                let node = self.call(called, arguments)?;
                self.push(node);
                Ok(())
            }
            b'Q' => {
                let place = self.pop()?;
                let node = self.storage(place)?;
                self.push(node);
                Ok(())
            }
            // What an object keeps beside its content: the versions of modules beside a dictionary of tensors.
            b'b' => {
                self.pop()?;
                match self.top()? {
                    Node::Dict(_) | Node::Tensor(_) | Node::Other => Ok(()),
                    _ => Err("it sets the state of what has none".into()),
                }
            }
            other => Err(format!("it has the instruction {other:#04x}, which is not known here")),
        }
    }
}

/// A little-endian integer of any length.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Other;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if negative { 0xFF } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}
