//! The names of one network, and how they become others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;

use muybridge_loaders::{CensusEntry, Cut, Piece};

use crate::error::{Error, Result};

/// Names below a prefix, without it, with their shapes.
pub(super) struct Names<'a> {
    prefix: &'a str,
    label: &'a Path,
    shapes: BTreeMap<&'a str, &'a [usize]>,
}

/// What a part of a name becomes.
pub(super) type Rule = (&'static str, &'static str);

impl<'a> Names<'a> {
    pub(super) fn below(census: &'a [CensusEntry], prefix: &'a str, label: &'a Path) -> Names<'a> {
        let named = census.iter().filter_map(|e| Some((e.name.strip_prefix(prefix)?, &e.shape[..])));
        Names { prefix, label, shapes: named.collect() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// Whether there are names below this one.
    pub(super) fn has_below(&self, block: &str) -> bool {
        self.under(block).next().is_some()
    }

    /// Names below this one, without it.
    pub(super) fn under(&self, block: &str) -> impl Iterator<Item = &'a str> {
        let start = format!("{block}.");
        let from =
            self.shapes.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded)).map(|(name, _)| *name);
        from.map_while(move |name| name.strip_prefix(start.as_str()))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a str> {
        self.shapes.keys().copied()
    }

    pub(super) fn shape(&self, name: &str) -> Result<&'a [usize]> {
        self.shapes.get(name).copied().ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// One extent of a tensor.
    pub(super) fn extent(&self, name: &str, axis: usize) -> Result<usize> {
        let shape = self.shape(name)?;
        shape.get(axis).copied().ok_or_else(|| self.wrong(name, &format!("has the shape {shape:?}")))
    }

    /// How many blocks `block.0`, `block.1`, … there are.
    pub(super) fn count(&self, block: &str) -> usize {
        (0..).take_while(|i| self.has_below(&format!("{block}.{i}"))).count()
    }

    pub(super) fn wrong(&self, name: &str, reason: &str) -> Error {
        Error::call("convert", format!("{}: {}{name} {reason}", self.label.display(), self.prefix))
    }

    /// An empty list of new names.
    pub(super) fn rename(&self) -> Rename<'_> {
        Rename { names: self, pieces: Vec::new(), taken: BTreeSet::new() }
    }
}

/// New names in the making.
pub(super) struct Rename<'a> {
    names: &'a Names<'a>,
    pieces: Vec<Piece>,
    taken: BTreeSet<&'a str>,
}

impl<'a> Rename<'a> {
    /// Takes everything below a block; what follows its name is changed by the rule that fits it, and stays where none does.
    pub(super) fn block(&mut self, from: &str, to: &str, rules: &[Rule]) {
        for rest in self.names.under(from) {
            let fits = |rule: &&Rule| rest.strip_prefix(rule.0).is_some_and(|r| r.is_empty() || r.starts_with('.'));
            let inside = match rules.iter().find(fits) {
                Some((old, new)) => format!("{new}{}", &rest[old.len()..]),
                None => rest.to_string(),
            };
            self.piece(&format!("{from}.{rest}"), format!("{to}.{inside}"), Cut::Whole);
        }
    }

    /// Takes one tensor, or nothing where there is none.
    pub(super) fn piece(&mut self, from: &str, to: String, cut: Cut) {
        if let Some((name, _)) = self.names.shapes.get_key_value(from) {
            self.taken.insert(name);
            self.pieces.push(Piece { target: to, source: format!("{}{name}", self.names.prefix), cut });
        }
    }

    /// Ends the list.
    ///
    /// # Errors
    /// Names are left that nothing took, other than those that `ignored` says no network reads.
    pub(super) fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<(Vec<Piece>, Vec<String>)> {
        let left = self.names.all().filter(|name| !self.taken.contains(name));
        let (left_out, unknown): (Vec<&str>, Vec<&str>) = left.partition(|name| ignored(name));
        if let Some(first) = unknown.first() {
            let more = format!("has no place in this network (and {} more)", unknown.len() - 1);
            return Err(self.names.wrong(first, &more));
        }
        let full = |name: &&str| format!("{}{name}", self.names.prefix);
        Ok((self.pieces, left_out.iter().map(full).collect()))
    }
}
