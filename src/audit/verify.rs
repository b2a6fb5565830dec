//! Is an audit log whole? Reads a file from its beginning; needs nothing else.

use std::io::{self, BufRead};

use jiff::Timestamp;

use super::line::{Read, Tip};

/// A line longer than this is none of ours.
const LONGEST: u64 = 64 * 1024;

/// A log without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// How many lines it has.
    pub lines: u64,
    /// The last line of the file before it, if it goes on from one.
    pub follows: Option<Tip>,
    /// When its first line was written.
    pub from: Timestamp,
    /// When its last line was.
    pub until: Timestamp,
    /// Its last line.
    pub tip: Tip,
    /// Whether the process that wrote it said that it stops here.
    pub closed: bool,
}

/// Why a file is not a whole log.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The file can't be read.
    #[error("it can't be read")]
    Unreadable(#[from] io::Error),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It does not begin as a log does.
    #[error(
        "line 1 is not the beginning of a log: lines before it were removed, or it is no audit log"
    )]
    NoBeginning,
    /// Something stands there that is no line.
    #[error("line {0} is not a line of an audit log")]
    NotALine(u64),
    /// The last line has no end.
    #[error("line {0} is cut off: the process died while writing it, or is writing it now")]
    CutOff(u64),
    /// A hash does not fit.
    #[error(
        "line {0} does not follow from the one before it: one of the two was changed, or lines between them were removed or added"
    )]
    OutOfChain(u64),
}

/// Whether the log that `log` gives is whole; `seen` hears of each line on the way.
///
/// # Errors
/// Where it is not, and why.
pub fn verify(mut log: impl BufRead, mut seen: impl FnMut(&Tip)) -> Result<Whole, Broken> {
    let mut whole: Option<Whole> = None;
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let length = io::Read::take(&mut log, LONGEST).read_line(&mut text);
        let length = length.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Broken::NotALine(number),
            _ => Broken::Unreadable(error),
        })?;
        if length == 0 {
            break;
        }
        let Some(line) = text.strip_suffix('\n') else {
            return Err(if length as u64 == LONGEST {
                Broken::NotALine(number)
            } else {
                Broken::CutOff(number)
            });
        };
        let read = Read::parse(line).ok_or(Broken::NotALine(number))?;
        let before = match &whole {
            Some(whole) => whole.tip.clone(),
            None if read.event == "opened" => read.previous.clone().unwrap_or_else(Tip::none),
            None => return Err(Broken::NoBeginning),
        };
        if read.seq != before.seq + 1 || !read.follows(&before, line) {
            return Err(Broken::OutOfChain(number));
        }
        seen(&read.tip());
        let first = whole.as_ref();
        whole = Some(Whole {
            lines: number,
            follows: first.map_or_else(|| read.previous.clone(), |first| first.follows.clone()),
            from: first.map_or(read.time, |first| first.from),
            until: read.time,
            tip: read.tip(),
            closed: read.event == "closed",
        });
    }
    whole.ok_or(Broken::Empty)
}
