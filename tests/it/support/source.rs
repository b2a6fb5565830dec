//! A reader of this crate's own source, good enough to hold its rules: which module a file is, which
//! paths it names, in production or in tests. Knows Rust's words and blanks, not its grammar.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file below `src/`.
pub(crate) struct Source {
    /// Relative to `src/`, such as `store/vault/mod.rs`.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

/// A word or a sign, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) word: String,
    pub(crate) line: usize,
    /// The inline modules around it.
    within: Vec<String>,
}

/// A path as seen from the crate's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    pub(crate) in_tests: bool,
}

impl Source {
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let (name, text) = (name.into(), text.into());
        let tokens = tokens(&text);
        Self { name, text, tokens }
    }

    /// Every file below `src/`, by name.
    pub(crate) fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        rust_files(&root, &mut files);
        files.sort();
        let read = |file: PathBuf| {
            let name = file.strip_prefix(&root).unwrap().display().to_string();
            Self::new(name, fs::read_to_string(&file).unwrap())
        };
        files.into_iter().map(read).collect()
    }

    /// The module this file is, from the crate's root.
    pub(crate) fn module(&self) -> Vec<String> {
        let path = self.name.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if ["lib", "main"].contains(&path) {
            return Vec::new();
        }
        path.split('/').map(str::to_owned).collect()
    }

    /// The top-level module it belongs to.
    pub(crate) fn room(&self) -> String {
        self.module().first().cloned().unwrap_or_else(|| "main".to_owned())
    }

    /// Whether the whole file is compiled for tests only.
    pub(crate) fn is_tests(&self) -> bool {
        self.name.ends_with("tests.rs")
    }

    /// Every path of this crate's that it names.
    pub(crate) fn names(&self) -> Vec<Named> {
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let first = at.checked_sub(1).is_none_or(|before| self.tokens[before].word != "::");
            let leads = self.tokens.get(at + 1).is_some_and(|next| next.word == "::");
            if !first || !leads {
                continue;
            }
            let base = match token.word.as_str() {
                "crate" | "grantkeeper" => Vec::new(),
                "self" => self.around(token),
                "super" => {
                    let mut around = self.around(token);
                    around.pop();
                    around
                }
                _ => continue,
            };
            let mut paths = Vec::new();
            tree(&self.tokens, at + 2, &base, &mut paths);
            let in_tests = self.in_tests(token);
            found.extend(paths.into_iter().map(|path| Named { path, line: token.line, in_tests }));
        }
        found
    }

    /// Lines of production code on which `word` stands as a word of its own.
    pub(crate) fn lines_with(&self, word: impl Fn(&str) -> bool) -> Vec<usize> {
        let hits = self.tokens.iter().filter(|token| word(&token.word) && !self.in_tests(token));
        hits.map(|token| token.line).collect()
    }

    /// The words after each `fn`.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &str> {
        let after_fn = |pair: &'_ [Token]| pair[0].word == "fn";
        self.tokens.windows(2).filter(move |pair| after_fn(pair)).map(|pair| &*pair[1].word)
    }

    fn around(&self, token: &Token) -> Vec<String> {
        self.module().into_iter().chain(token.within.iter().cloned()).collect()
    }

    fn in_tests(&self, token: &Token) -> bool {
        self.is_tests() || token.within.iter().any(|module| module == "tests")
    }
}

/// The Rust files below `folder`.
pub(crate) fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

/// Reads what follows a `::` at `at`: a name, a star or a group, each possibly longer. Gives where it
/// ended.
fn tree(tokens: &[Token], at: usize, base: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.word.as_str());
    if word(at) == "{" {
        let mut at = at + 1;
        while !["}", ""].contains(&word(at)) {
            at = match word(at) {
                "," => at + 1,
                "as" => at + 2,
                _ => tree(tokens, at, base, paths),
            };
        }
        return at + 1;
    }
    let mut path = base.to_vec();
    match word(at) {
        "super" => drop(path.pop()),
        "self" => {}
        name => path.push(name.to_owned()),
    }
    if word(at + 1) == "::" && word(at + 2) != "<" {
        return tree(tokens, at + 2, &path, paths);
    }
    paths.push(path);
    at + 1
}

/// Words and signs, without comments and without what stands in strings.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut within: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut line) = (0, 1);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = blank(rest).unwrap_or_else(|| {
            let length = if first.is_alphanumeric() || first == '_' {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                end.unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let word = rest[..length].to_owned();
            if word == "{" {
                depth += 1;
                if let [.., keyword, name] = &*tokens
                    && keyword.word == "mod"
                {
                    within.push((name.word.clone(), depth));
                }
            }
            if word == "}" {
                within.pop_if(|(_, opened)| *opened == depth);
                depth -= 1;
            }
            let within = within.iter().map(|(name, _)| name.clone()).collect();
            tokens.push(Token { word, line, within });
            length
        });
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of the blank, comment, string or character at the start of `text`, if there is one.
fn blank(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    if first.is_whitespace() {
        return Some(first.len_utf8());
    }
    let until = |sign: &str, from: usize| {
        text[from..].find(sign).map_or(text.len(), |end| from + end + sign.len())
    };
    if text.starts_with("//") {
        return Some(until("\n", 2));
    }
    if text.starts_with("/*") {
        return Some(until("*/", 2));
    }
    let bare = text.trim_start_matches('b');
    let prefix = text.len() - bare.len();
    let raw = bare.strip_prefix('r').filter(|_| prefix < 2);
    if let Some(opened) = raw {
        let hashes = opened.len() - opened.trim_start_matches('#').len();
        if opened[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(until(&end, prefix + 1 + hashes + 1));
        }
    }
    if bare.starts_with('"') && prefix < 2 {
        let mut escaped = false;
        for (at, c) in text.char_indices().skip(prefix + 1) {
            match c {
                '"' if !escaped => return Some(at + 1),
                _ => escaped = c == '\\' && !escaped,
            }
        }
        return Some(text.len());
    }
    let mut after = text.strip_prefix('\'')?.chars();
    match (after.next()?, after.next()?) {
        ('\\', escaped) => Some(until("'", 2 + escaped.len_utf8())),
        (c, '\'') => Some(2 + c.len_utf8()),
        // A lifetime.
        _ => None,
    }
}
