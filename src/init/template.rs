//! A template of the operator's, filled with tokens. Strict: a name that stands for nothing is an error, never an empty
//! place. Knows no file but the template's own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{InitError, files::WrittenToken};
use crate::engine::Answer;

/// The only template of its environment.
const NAME: &str = "template";
/// What a template may name.
const NAMES: [&str; 4] = ["portals", "tokens", "portal_id", "access_token"];

/// A template that can be read.
#[derive(Debug)]
pub(super) struct Template {
    path: PathBuf,
    environment: Environment<'static>,
}

#[derive(Serialize)]
struct Names<'a> {
    portals: Vec<WrittenToken<'a>>,
    /// By portal id, as text.
    tokens: BTreeMap<String, &'a str>,
    #[serde(flatten)]
    only: Option<Only<'a>>,
}

/// Where there is one portal, it need not be named.
#[derive(Serialize)]
struct Only<'a> {
    portal_id: u64,
    access_token: &'a str,
}

impl Template {
    /// Reads a template, and refuses one that names what no token can bring.
    pub(super) fn read(path: &Path) -> Result<Self, InitError> {
        let refused = |why: String| InitError::Template { path: path.to_owned(), why };
        let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|error| refused(error.to_string()))?);
        environment.add_template_owned(NAME, text).map_err(|error| refused(error.to_string()))?;
        let template = Self { path: path.to_owned(), environment };
        let unknown = template.unknown()?;
        if unknown.is_empty() {
            return Ok(template);
        }
        Err(refused(format!("it names {}; there is {}", unknown.join(", "), NAMES.join(", "))))
    }

    fn unknown(&self) -> Result<Vec<String>, InitError> {
        let template = self.environment.get_template(NAME).map_err(|error| self.refused(&error))?;
        let mut unknown: Vec<_> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|name| !NAMES.contains(&name.as_str()))
            .filter(|name| self.environment.globals().all(|(known, _)| known != name))
            .collect();
        unknown.sort();
        Ok(unknown)
    }

    fn refused(&self, error: &minijinja::Error) -> InitError {
        InitError::Template { path: self.path.clone(), why: error.to_string() }
    }

    /// The text with tokens in their places.
    pub(super) fn fill(&self, answers: &[Answer]) -> Result<Zeroizing<String>, InitError> {
        let names = Names {
            portals: answers.iter().map(WrittenToken::of).collect(),
            tokens: answers
                .iter()
                // exposed: into the file the operator asked for
                .map(|answer| (answer.portal.to_string(), answer.access_token.expose()))
                .collect(),
            only: match answers {
                // exposed: into the file the operator asked for
                [only] => Some(Only {
                    portal_id: only.portal.number(),
                    access_token: only.access_token.expose(),
                }),
                _ => None,
            },
        };
        let template = self.environment.get_template(NAME).map_err(|error| self.refused(&error))?;
        template.render(Serde(names)).map(Zeroizing::new).map_err(|error| {
            // By now it knows tokens, and its details may: what it is, and where, is enough.
            let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
            InitError::Template { path: self.path.clone(), why: format!("{}{line}", error.kind()) }
        })
    }
}
