//! The walk through a parsed file: what it defines, imports, names and says.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, TraitItem, UseTree};

use super::tree::{Binding, Files, Function, Kind, MODULE, Mark, Module, ModulePath, Tree, join};

/// Takes the items of a file into the tree. `dir` is where the files of its modules are.
pub fn walk(tree: &mut Tree, files: &Files, file: &str, dir: &str, path: ModulePath, syntax: &syn::File) {
    let mut walk = Walk { tree, files, file, dir: dir.to_owned(), path, functions: Vec::new() };
    syntax.items.iter().for_each(|item| walk.visit_item(item));
}

/// Goes through one file, module by module.
struct Walk<'a> {
    tree: &'a mut Tree,
    files: &'a Files,
    file: &'a str,
    /// Where the files of the module's children are looked for.
    dir: String,
    path: ModulePath,
    functions: Vec<String>,
}

impl Walk<'_> {
    fn module(&mut self) -> &mut Module {
        self.tree.modules.entry(self.path.clone()).or_default()
    }

    fn mark(&mut self, kind: Kind, word: impl Into<String>, line: usize) {
        let function = self.functions.last().cloned().unwrap_or_else(|| MODULE.to_owned());
        self.module().marks.push(Mark { kind, word: word.into(), function, line });
    }

    fn mention(&mut self, path: Vec<String>, line: usize) {
        if path.len() > 1 {
            self.module().mentions.push((path, line));
        }
    }

    fn bring(&mut self, tree: &UseTree, before: &[String]) {
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(path) => self.bring(&path.tree, &join(before, &path.ident.to_string())),
            UseTree::Group(group) => group.items.iter().for_each(|it| self.bring(it, before)),
            UseTree::Glob(_) => self.bind(None, before.to_vec(), line),
            UseTree::Name(name) if name.ident == "self" => self.bind(before.last().cloned(), before.to_vec(), line),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.bind(Some(name.clone()), join(before, &name), line);
            }
            UseTree::Rename(it) => {
                self.bind(Some(it.rename.to_string()), join(before, &it.ident.to_string()), line);
            }
            #[allow(unreachable_patterns, reason = "a later syn may know more")]
            _ => {}
        }
    }

    fn bind(&mut self, name: Option<String>, target: Vec<String>, line: usize) {
        // `pub(crate) use name;` of a macro names itself.
        if target.len() > 1 {
            self.module().mentions.push((target.clone(), line));
            self.module().bindings.push(Binding { name, target });
        }
    }

    fn function(&mut self, name: String, whole: proc_macro2::Span, inside: impl FnOnce(&mut Self)) {
        let (first, last) = (whole.start().line, whole.end().line);
        self.module().functions.push(Function { name: name.clone(), line: first, lines: last + 1 - first });
        self.functions.push(name);
        inside(self);
        self.functions.pop();
    }

    /// Paths, names and texts among tokens that only a macro makes sense of.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let is = |at: usize, what: char| matches!(tokens.get(at), Some(TokenTree::Punct(it)) if it.as_char() == what);
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            let line = token.span().start().line;
            match token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                        self.mark(Kind::Text, text.value(), line);
                    }
                }
                TokenTree::Ident(ident) if ident == "unsafe" => self.mark(Kind::Unsafe, "unsafe", line),
                TokenTree::Ident(ident) if at > 1 && is(at - 2, '.') => {
                    self.mark(Kind::Name, format!(".{ident}"), line);
                }
                TokenTree::Ident(ident) => {
                    let mut path = vec![ident.to_string()];
                    while let (true, true, Some(TokenTree::Ident(next))) =
                        (is(at, ':'), is(at + 1, ':'), tokens.get(at + 2))
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    let call = if is(at, '!') { format!("{}!", path[path.len() - 1]) } else { path.join("::") };
                    self.mark(Kind::Name, call, line);
                    self.mention(path, line);
                }
                TokenTree::Punct(_) => {}
            }
        }
    }

    fn descend(&mut self, it: &syn::ItemMod) {
        let name = it.ident.to_string();
        let path = join(&self.path, &name);
        let dir = format!("{}/{name}", self.dir);
        if let Some((_, items)) = &it.content {
            let module = Module { file: self.file.to_owned(), ..Module::default() };
            self.tree.modules.insert(path.clone(), module);
            let outside = (std::mem::replace(&mut self.path, path), std::mem::replace(&mut self.dir, dir));
            items.iter().for_each(|item| self.visit_item(item));
            (self.path, self.dir) = outside;
            return;
        }
        let flat = format!("{dir}.rs");
        let file = named(&it.attrs).map_or(flat, |file| {
            let here = self.file.rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{here}/{file}")
        });
        let file = if self.files.contains_key(&file) { file } else { format!("{dir}/mod.rs") };
        self.tree.load(self.files, &file, &dir, path);
    }
}

/// The file that `#[path = "..."]` names.
fn named(attributes: &[Attribute]) -> Option<String> {
    let path = attributes.iter().find(|it| it.path().is_ident("path"))?;
    let syn::Meta::NameValue(it) = &path.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) = &it.value else { return None };
    Some(file.value())
}

/// Whether something is left out of what is shipped.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        let condition = match &it.meta {
            syn::Meta::List(list) if it.path().is_ident("cfg") => list.tokens.to_string(),
            _ => return it.path().is_ident("test"),
        };
        let words: Vec<_> = condition.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let left_out = words.contains(&"test") || words.contains(&"simulation");
        left_out && !words.contains(&"not") || words.contains(&"doctest")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

fn defined(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(it) => it.ident.to_string(),
        Item::Enum(it) => it.ident.to_string(),
        Item::Fn(it) => it.sig.ident.to_string(),
        Item::Macro(it) => it.ident.as_ref()?.to_string(),
        Item::Static(it) => it.ident.to_string(),
        Item::Struct(it) => it.ident.to_string(),
        Item::Trait(it) => it.ident.to_string(),
        Item::Type(it) => it.ident.to_string(),
        _ => return None,
    })
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            return;
        }
        if let (Some(name), true) = (defined(item), self.functions.is_empty()) {
            self.module().items.insert(name);
        }
        match item {
            Item::Mod(it) => self.descend(it),
            Item::Use(it) => self.bring(&it.tree, &[]),
            Item::Fn(it) => {
                let whole = it.sig.span().join(it.block.span()).unwrap_or_else(|| it.block.span());
                self.function(it.sig.ident.to_string(), whole, |walk| visit::visit_item_fn(walk, it));
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        match item {
            ImplItem::Fn(it) if is_test(&it.attrs) => {}
            ImplItem::Fn(it) => {
                let whole = it.sig.span().join(it.block.span()).unwrap_or_else(|| it.block.span());
                self.function(it.sig.ident.to_string(), whole, |walk| visit::visit_impl_item_fn(walk, it));
            }
            _ => visit::visit_impl_item(self, item),
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        match item {
            TraitItem::Fn(it) if it.default.is_some() => {
                self.function(it.sig.ident.to_string(), it.span(), |walk| visit::visit_trait_item_fn(walk, it));
            }
            _ => visit::visit_trait_item(self, item),
        }
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        match statement {
            syn::Stmt::Local(it) if is_test(&it.attrs) => {}
            syn::Stmt::Macro(it) if is_test(&it.attrs) => {}
            _ => visit::visit_stmt(self, statement),
        }
    }

    fn visit_signature(&mut self, it: &'ast syn::Signature) {
        if let syn::Safety::Unsafe(word) = &it.safety {
            self.mark(Kind::Unsafe, "unsafe", word.span().start().line);
        }
        visit::visit_signature(self, it);
    }

    fn visit_item_impl(&mut self, it: &'ast syn::ItemImpl) {
        if let Some(word) = &it.unsafety {
            self.mark(Kind::Unsafe, "unsafe", word.span().start().line);
        }
        visit::visit_item_impl(self, it);
    }

    fn visit_expr_unsafe(&mut self, it: &'ast syn::ExprUnsafe) {
        self.mark(Kind::Unsafe, "unsafe", it.unsafe_token.span().start().line);
        visit::visit_expr_unsafe(self, it);
    }

    fn visit_path(&mut self, it: &'ast syn::Path) {
        let names: Vec<_> = it.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.mention(names, it.span().start().line);
        visit::visit_path(self, it);
    }

    fn visit_expr_path(&mut self, it: &'ast syn::ExprPath) {
        let names: Vec<_> = it.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.mark(Kind::Name, names.join("::"), it.span().start().line);
        visit::visit_expr_path(self, it);
    }

    fn visit_expr_method_call(&mut self, it: &'ast syn::ExprMethodCall) {
        // `Option::expect` takes a text; a parser's own `expect` takes what it expects.
        let text = matches!(it.args.first(), Some(syn::Expr::Lit(_) | syn::Expr::Macro(_)));
        if it.method != "expect" || text {
            self.mark(Kind::Name, format!(".{}", it.method), it.method.span().start().line);
        }
        visit::visit_expr_method_call(self, it);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        if let Some(last) = it.path.segments.last() {
            self.mark(Kind::Name, format!("{}!", last.ident), last.ident.span().start().line);
        }
        visit::visit_macro(self, it);
        self.tokens(it.tokens.clone());
    }

    fn visit_attribute(&mut self, it: &'ast Attribute) {
        if !it.path().is_ident("doc")
            && let syn::Meta::List(list) = &it.meta
        {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_lit_str(&mut self, it: &'ast syn::LitStr) {
        self.mark(Kind::Text, it.value(), it.span().start().line);
    }
}
