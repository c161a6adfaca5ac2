//! The production code of both crates as a tree of modules: who imports whom, how long functions
//! are, which words stand where.

use std::collections::{BTreeMap, BTreeSet};

use super::walk::walk;

/// The files of a repository, by their paths in it.
pub type Files = BTreeMap<String, String>;

/// The roots of the crates, and the name that other crates import each by. Nobody imports a
/// program.
const CRATES: [(&str, &str); 3] =
    [("src/lib.rs", "whimbrel"), ("src/main.rs", "(program)"), ("postcopy/src/lib.rs", "whimbrel_postcopy")];

/// What stands in no function.
pub const MODULE: &str = "(module)";

/// The name of a module with those of all around it, its crate's first.
pub type ModulePath = Vec<String>;

/// A name that a module has brought into scope; a glob has none.
pub struct Binding {
    pub name: Option<String>,
    pub target: Vec<String>,
}

/// What a word of the source says, beyond what can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `unsafe` in front of a block, a function, an implementation.
    Unsafe,
    /// A path (`thread::sleep`), a macro (`panic!`) or a method (`.unwrap`) that is named.
    Name,
    /// A string literal: also in attributes and macros, but no documentation.
    Text,
}

/// A word or text that some rule may be about.
#[derive(Debug)]
pub struct Mark {
    pub kind: Kind,
    pub word: String,
    /// The function that it stands in, or the module's own name.
    pub function: String,
    pub line: usize,
}

/// A function or method.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub line: usize,
    /// From its signature to its closing brace; documentation and attributes do not count.
    pub lines: usize,
}

/// One module: a file, or `mod x { ... }` in one.
#[derive(Default)]
pub struct Module {
    pub file: String,
    pub bindings: Vec<Binding>,
    pub items: BTreeSet<String>,
    pub mentions: Vec<(Vec<String>, usize)>,
    pub functions: Vec<Function>,
    pub marks: Vec<Mark>,
}

/// All modules that are built when nothing is tested.
#[derive(Default)]
pub struct Tree {
    pub modules: BTreeMap<ModulePath, Module>,
    /// Files that only tests are built from.
    pub test_files: BTreeSet<String>,
}

/// One file that uses something of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    pub from: ModulePath,
    pub to: ModulePath,
    pub line: usize,
}

impl Tree {
    /// Parses the crates that are there.
    pub fn parse(files: &Files) -> Self {
        let mut tree = Self::default();
        for (root, name) in CRATES {
            if files.contains_key(root) {
                let dir = root.rsplit_once('/').map_or("", |(dir, _)| dir);
                tree.load(files, root, dir, vec![name.to_owned()]);
            }
        }
        let built: BTreeSet<_> = tree.modules.values().map(|module| module.file.clone()).collect();
        let of_crates = files.keys().filter(|file| is_source(file));
        tree.test_files = of_crates.filter(|file| !built.contains(*file)).cloned().collect();
        tree
    }

    /// The files of production code.
    pub fn files(&self) -> BTreeSet<&str> {
        self.modules.values().map(|module| module.file.as_str()).collect()
    }

    /// Parses a module's file, and those of the modules in it.
    pub fn load(&mut self, files: &Files, file: &str, dir: &str, path: ModulePath) {
        let text = files.get(file).unwrap_or_else(|| panic!("{file}, module {}, is not there", path.join("::")));
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let module = Module { file: file.to_owned(), ..Module::default() };
        self.modules.insert(path.clone(), module);
        walk(self, files, file, dir, path, &syntax);
    }

    /// Every use of one file's names in another.
    pub fn imports(&self) -> BTreeSet<Import> {
        let mut imports = BTreeSet::new();
        for (path, module) in &self.modules {
            let from = self.whole_file(path);
            for (mention, line) in &module.mentions {
                let Some(to) = self.resolve(path, mention, 0) else { continue };
                let to = self.whole_file(&to);
                if to != from {
                    imports.insert(Import { from: from.clone(), to, line: *line });
                }
            }
        }
        imports
    }

    /// The module that is the whole of the file where this one stands.
    fn whole_file(&self, path: &[String]) -> ModulePath {
        let mut path = path.to_vec();
        while path.len() > 1 && self.modules[&path[..path.len() - 1]].file == self.modules[&path].file {
            path.pop();
        }
        path
    }

    /// The module where that stands what a path in this module names; nothing if it is of another
    /// crate.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        let up = |from: &[String]| from[..from.len().saturating_sub(1).max(1)].to_vec();
        match first.as_str() {
            "crate" => self.descend(&from[..1].to_vec(), rest, depth),
            "self" => self.descend(&from.to_vec(), rest, depth),
            "super" if rest.first().is_some_and(|next| next == "super") => self.resolve(&up(from), rest, depth),
            "super" => self.descend(&up(from), rest, depth),
            name if self.names(from, name) => self.descend(&from.to_vec(), path, depth),
            name => {
                let root = vec![name.to_owned()];
                if self.modules.contains_key(&root) { self.descend(&root, rest, depth) } else { None }
            }
        }
    }

    fn names(&self, module: &[String], name: &str) -> bool {
        let Some(it) = self.modules.get(module) else { return false };
        let bound = it.bindings.iter().any(|binding| binding.name.as_deref() == Some(name));
        bound || it.items.contains(name) || self.modules.contains_key(&join(module, name))
    }

    fn descend(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        let it = self.modules.get(module)?;
        let Some((first, rest)) = path.split_first() else { return Some(module.clone()) };
        let child = join(module, first);
        if self.modules.contains_key(&child) {
            return self.descend(&child, rest, depth);
        }
        if it.items.contains(first) || depth > 8 {
            return Some(module.clone());
        }
        let mut bound = it.bindings.iter().filter(|binding| binding.name.as_deref() == Some(first));
        if let Some(binding) = bound.next() {
            // What a module passes on of another crate is its own: it is the one that imports.
            if self.modules.contains_key(&binding.target[..1]) && !self.names(module, &binding.target[0]) {
                return Some(module.clone());
            }
            let whole = [&binding.target[..], rest].concat();
            return self.resolve(module, &whole, depth + 1);
        }
        let globs = it.bindings.iter().filter(|binding| binding.name.is_none());
        let mut through = globs.filter_map(|glob| self.resolve(module, &glob.target, depth + 1));
        let found = through.find(|target| target != module && self.names(target, first));
        found.map_or_else(|| Some(module.clone()), |target| self.descend(&target, path, depth + 1))
    }
}

/// Whether a file is of the crates' sources.
pub fn is_source(file: &str) -> bool {
    (file.starts_with("src/") || file.starts_with("postcopy/src/")) && file.ends_with(".rs")
}

pub fn join(module: &[String], name: &str) -> ModulePath {
    let mut path = module.to_vec();
    path.push(name.to_owned());
    path
}
