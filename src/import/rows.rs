//! Rows of a file → grants to store: JSON lines, or CSV with a head. A row that can't be used is told with its
//! line and keeps no other from being used. Never echoes a value. Pure.

use serde_json::{Map, Value};

use super::{Fate, Row, Told};
use crate::{portal::PortalId, store::Record};

/// What people call the columns.
const PORTAL: [&str; 6] = ["portal_id", "portalId", "portal", "hub_id", "hubId", "hub"];
const TOKEN: [&str; 3] = ["refresh_token", "refreshToken", "token"];

/// Whether a column is called so, however it is written: `Portal ID`, `PORTAL_ID`, `portal-id`.
fn is_called(column: &str, name: &str) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
    };
    column == name || (!letters(name).is_empty() && letters(column) == letters(name))
}

/// What stands between the columns: whatever the first line has most of.
fn delimiter(text: &str) -> u8 {
    let head = text.lines().next().unwrap_or_default();
    let count = |delimiter: &u8| head.bytes().filter(|byte| byte == delimiter).count();
    // Of equals the last counts.
    [b'\t', b';', b','].into_iter().max_by_key(count).unwrap_or(b',')
}

/// How the rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    JsonLines,
    /// Comma-separated, the first line naming the columns.
    Csv,
}

impl Format {
    /// By how the text begins: JSON lines begin with a brace.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('{') { Self::JsonLines } else { Self::Csv }
    }
}

/// Which columns hold what; none: one of the usual names.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// The portal's id.
    pub portal: Option<String>,
    /// The refresh token.
    pub token: Option<String>,
    /// Further columns to keep as members of the record (CSV; a JSON line's other members are kept all).
    pub keep: Vec<String>,
}

/// Nothing of it can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is no such column. What the first line holds is not said: without a head, it holds a grant.
    #[error("none of the {count} columns that the first line names is called {names}, for {what}", names = .names.join(" or "))]
    NoColumn {
        /// What it would hold.
        what: &'static str,
        /// What was looked for.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// It is one JSON document.
    #[error("it is one JSON array; JSON lines are one object a line (`jq -c '.[]'` makes them)")]
    Array,
    /// There is nothing.
    #[error("there are no rows")]
    Empty,
}

/// The rows that can be used, and what is wrong with the others.
///
/// # Errors
/// See [`Unreadable`].
pub fn parse(
    text: &str,
    format: Format,
    columns: &Columns,
) -> Result<(Vec<Row>, Vec<Told>), Unreadable> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('[') {
        return Err(Unreadable::Array);
    }
    match format {
        Format::JsonLines => json_lines(text, columns),
        Format::Csv => csv(text, columns),
    }
}

fn json_lines(text: &str, columns: &Columns) -> Result<(Vec<Row>, Vec<Told>), Unreadable> {
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(members)) => sort(row(line, members, columns), &mut rows, &mut bad),
            Ok(_) => bad.push(unusable(line, "it is JSON, but not an object")),
            Err(error) => {
                bad.push(unusable(line, &format!("it is not JSON (column {})", error.column())));
            }
        }
    }
    if rows.is_empty() && bad.is_empty() { Err(Unreadable::Empty) } else { Ok((rows, bad)) }
}

fn csv(text: &str, columns: &Columns) -> Result<(Vec<Row>, Vec<Told>), Unreadable> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .delimiter(delimiter(text))
        .from_reader(text.as_bytes());
    let head = reader.headers().map_err(|_| Unreadable::Empty)?.clone();
    if head.iter().all(str::is_empty) {
        return Err(Unreadable::Empty);
    }
    let find = |named: &Option<String>, usual: &[&str], what| {
        let named = named.as_deref();
        let names = named.map_or_else(|| usual.to_vec(), |name| vec![name]);
        let called = |name: &&str| head.iter().position(|column| is_called(column, name));
        let found = names.iter().find_map(called);
        found.ok_or_else(|| Unreadable::NoColumn {
            what,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            count: head.len(),
        })
    };
    let portal = find(&columns.portal, &PORTAL, "the portal's id")?;
    let token = find(&columns.token, &TOKEN, "the refresh token")?;
    let mut kept = Vec::new();
    for name in &columns.keep {
        kept.push((name, find(&Some(name.clone()), &[], "what is to be kept")?));
    }
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    let own = Columns { portal: None, token: None, keep: Vec::new() };
    let mut records = reader.into_records();
    while let Some(record) = records.next() {
        let next = records.reader().position().line();
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                let line = usize::try_from(line).unwrap_or_default();
                bad.push(unusable(line, "it has another number of columns than the head"));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let line = usize::try_from(line).unwrap_or_default();
        if record.iter().any(|cell| cell.contains('\n')) {
            // A quotation mark that is never closed takes in all rows after it, and nobody would know.
            let why = format!(
                "a cell in it has a line break, or a quotation mark is not closed: it reaches to line {}",
                next.saturating_sub(1)
            );
            bad.push(unusable(line, &why));
            continue;
        }
        let text = |column: usize| Value::String(record.get(column).unwrap_or_default().to_owned());
        let mut members = Map::new();
        members.insert(PORTAL[0].to_owned(), text(portal));
        members.insert(TOKEN[0].to_owned(), text(token));
        for (name, column) in &kept {
            members.insert((*name).clone(), text(*column));
        }
        sort(row(line, members, &own), &mut rows, &mut bad);
    }
    Ok((rows, bad))
}

fn sort(row: Result<Row, Told>, rows: &mut Vec<Row>, bad: &mut Vec<Told>) {
    match row {
        Ok(row) => rows.push(row),
        Err(told) => bad.push(told),
    }
}

/// One object as a grant: its members but the portal's id become the record's.
fn row(line: usize, mut members: Map<String, Value>, columns: &Columns) -> Result<Row, Told> {
    let mut take = |named: &Option<String>, usual: &[&str]| {
        let names = named.as_deref().map_or_else(|| usual.to_vec(), |name| vec![name]);
        names.iter().find_map(|name| members.remove(*name))
    };
    let portal = match take(&columns.portal, &PORTAL) {
        None => return Err(unusable(line, "it does not say which portal it is for")),
        Some(Value::Number(number)) => number.to_string().parse::<PortalId>(),
        Some(Value::String(text)) => text.trim().parse(),
        Some(_) => return Err(unusable(line, "its portal's id is neither a number nor text")),
    };
    let portal = portal.map_err(|why| unusable(line, &why.to_string()))?;
    let of = |fate| Told { line, portal: Some(portal), fate };
    let token = match take(&columns.token, &TOKEN) {
        Some(token @ Value::String(_)) => token,
        Some(_) => return Err(of(Fate::Unusable("its refresh token is not text".to_owned()))),
        None => return Err(of(Fate::Unusable("it has no refresh token".to_owned()))),
    };
    members.insert("refresh_token".to_owned(), token);
    let record = Record::from_members(members);
    match record.portal() {
        Ok(_) => Ok(Row { line, portal, record }),
        Err(fault) => Err(of(Fate::Unusable(fault.to_string()))),
    }
}

fn unusable(line: usize, why: &str) -> Told {
    Told { line, portal: None, fate: Fate::Unusable(why.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(row: &Row) -> String {
        format!("{} {} {}", row.line, row.portal, row.record.to_json().as_str())
    }

    #[test]
    fn json_lines_keep_their_other_members() {
        let text = "{\"hub_id\": 7, \"refreshToken\": \"a\", \"note\": \"x\"}\n\n{\"portal_id\": \"8\", \"refresh_token\": \"b\"}\n";
        let (rows, bad) = parse(text, Format::of(text), &Columns::default()).unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        let rows: Vec<_> = rows.iter().map(shown).collect();
        assert_eq!(
            rows,
            [r#"1 7 {"note":"x","refresh_token":"a"}"#, r#"3 8 {"refresh_token":"b"}"#]
        );
    }

    #[test]
    fn csv_columns_are_found_by_their_usual_names_or_by_those_given() {
        let text = "account,rt,owner,more\n7,a,me,1\n8,\"b\",you,2\n";
        assert_eq!(Format::of(text), Format::Csv);
        let usual = parse(text, Format::Csv, &Columns::default()).unwrap_err();
        assert_eq!(
            usual.to_string(),
            "none of the 4 columns that the first line names is called portal_id or portalId or portal or hub_id or hubId or hub, for the portal's id"
        );
        let columns = Columns {
            portal: Some("account".to_owned()),
            token: Some("rt".to_owned()),
            keep: vec!["owner".to_owned()],
        };
        let (rows, bad) = parse(text, Format::Csv, &columns).unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        let rows: Vec<_> = rows.iter().map(shown).collect();
        assert_eq!(
            rows,
            [
                r#"2 7 {"owner":"me","refresh_token":"a"}"#,
                r#"3 8 {"owner":"you","refresh_token":"b"}"#
            ]
        );
        let bom = "\u{feff}portal_id,refresh_token\r\n7,a\r\n";
        assert_eq!(parse(bom, Format::of(bom), &Columns::default()).unwrap().0.len(), 1);
    }

    #[test]
    fn what_can_t_be_used_is_told_with_its_line_and_without_its_value() {
        let text = "{\"portal_id\": 0, \"refresh_token\": \"CANARY\"}\n[1]\nCANARY\n{\"refresh_token\": \"CANARY\"}\n{\"portal_id\": 5}\n{\"portal_id\": 6, \"refresh_token\": \"CANARY \\n\"}\n{\"portal_id\": 7, \"refresh_token\": 7}\n{\"portal_id\": [], \"refresh_token\": \"CANARY\"}\n";
        let (rows, bad) = parse(text, Format::JsonLines, &Columns::default()).unwrap();
        assert!(rows.is_empty());
        assert_eq!(bad.iter().map(|told| told.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
        let said = format!("{bad:?}");
        assert!(!said.contains("CANARY"), "{said}");
        let short = "portal_id,refresh_token\n7\n8,b\n";
        let (rows, bad) = parse(short, Format::Csv, &Columns::default()).unwrap();
        assert_eq!((rows.len(), bad.len(), bad[0].line), (1, 1, 2));
    }

    #[test]
    fn heads_and_delimiters_are_taken_as_people_s_tools_write_them() {
        for head in ["Portal ID,Refresh Token", "PORTAL_ID;REFRESH_TOKEN", "hub-id\tRefreshToken"] {
            let between = head.chars().find(|c| ",;\t".contains(*c)).unwrap();
            let text = format!("{head}\n7{between}a\n");
            let (rows, bad) = parse(&text, Format::Csv, &Columns::default()).unwrap();
            assert_eq!((rows.len(), bad.len()), (1, 0), "{head}");
        }
    }

    #[test]
    fn a_quotation_mark_that_is_not_closed_swallows_no_row_in_silence() {
        let text = "portal_id,refresh_token,name\n1,a,\"24 inch\n2,b,x\n3,c,y\n";
        let (rows, bad) = parse(text, Format::Csv, &Columns::default()).unwrap();
        assert!(rows.is_empty());
        assert_eq!((bad.len(), bad[0].line), (1, 2));
        assert!(bad[0].fate.why().contains("reaches to line 4"), "{}", bad[0].fate.why());
        let two = "portal_id,refresh_token,name\n1,a,\"24 inch\n2,b,\"x\"\n3,c,y\n";
        let (rows, bad) = parse(two, Format::Csv, &Columns::default()).unwrap();
        assert_eq!((rows.len(), bad.len()), (1, 1), "the third is read");
    }

    #[test]
    fn i10_what_has_no_head_or_is_an_array_is_refused_without_being_echoed() {
        for text in [
            "4711,CANARY\n4712,CANARY\n",
            "[{\"portal_id\":1,\"refresh_token\":\"CANARY\"}]",
            "\u{feff}[\n{\"portal_id\":1,\"refresh_token\":\"CANARY\"}\n]",
            "CANARY",
        ] {
            let error = parse(text, Format::of(text), &Columns::default()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}");
        }
        let lines = "\u{feff}{\"portal_id\":1,\"refresh_token\":\"a\"}\n";
        assert_eq!(Format::of(lines), Format::JsonLines);
        assert_eq!(parse(lines, Format::of(lines), &Columns::default()).unwrap().0.len(), 1);
    }

    #[test]
    fn nothing_is_told_as_nothing() {
        for (text, format) in
            [("", Format::JsonLines), ("\n \n", Format::JsonLines), ("", Format::Csv)]
        {
            assert_eq!(
                parse(text, format, &Columns::default()).err(),
                Some(Unreadable::Empty),
                "{text:?}"
            );
        }
    }
}
