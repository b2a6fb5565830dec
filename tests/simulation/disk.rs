//! A disk that forgets what was not synced: when the process dies in the middle of a write, any part of
//! it may be there, and any part of it may not.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use grantkeeper::{
    journal::Disk,
    time::{BootTime, Clock},
};

use crate::machine::{Crash, Dice, TrueTime};

#[derive(Debug, Clone)]
pub(crate) struct MemoryDisk {
    content: Arc<Mutex<Content>>,
    crash: Crash,
    truth: TrueTime,
}

#[derive(Debug)]
struct Content {
    segments: BTreeMap<u64, Vec<u8>>,
    /// A write under way: what may or may not be there after a crash.
    pending: Option<(u64, Vec<u8>)>,
    full: bool,
    /// It was full once, or took longer than anybody waits for.
    refused: bool,
    /// Until then nothing comes back from it.
    hangs_until: BootTime,
    dice: Dice,
}

impl MemoryDisk {
    pub(crate) fn new(crash: Crash, truth: TrueTime, seed: u64) -> Self {
        let content = Content {
            segments: BTreeMap::new(),
            pending: None,
            full: false,
            refused: false,
            hangs_until: BootTime::default(),
            dice: Dice::new(seed ^ 0xD15C),
        };
        Self { content: Arc::new(Mutex::new(content)), crash, truth }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(crate) fn set_full(&self, full: bool) {
        let mut content = self.content();
        content.full = full;
        content.refused |= full;
    }

    /// Whether there was a time in which it did not take what it was given.
    pub(crate) fn has_refused(&self) -> bool {
        self.content().refused
    }

    pub(crate) fn hang_for(&self, span: Duration) {
        let mut content = self.content();
        content.hangs_until = self.truth.boot() + span;
        content.refused = true;
    }

    /// The same content on a disk of its own, which nobody crashes.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new(Crash::default(), self.truth.clone(), 0);
        let segments = self.content().segments.clone();
        copy.content().segments = segments;
        copy
    }

    /// The process is dead: of what it was writing, some part is there.
    pub(crate) fn settle(&self) {
        let mut content = self.content();
        if let Some((segment, bytes)) = content.pending.take() {
            let length = usize::try_from(content.dice.roll(bytes.len() as u64)).unwrap();
            content.segments.entry(segment).or_default().extend_from_slice(&bytes[..length]);
        }
    }

    async fn takes_a_while(&self) {
        let (pause, hangs_until) = {
            let mut content = self.content();
            (content.dice.millis(15), content.hangs_until)
        };
        tokio::time::sleep(pause).await;
        self.truth.pass(hangs_until.until(self.truth.boot())).await;
    }
}

#[async_trait]
impl Disk for MemoryDisk {
    async fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.content().segments.keys().copied().collect())
    }

    async fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        self.content().segments.get(&segment).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    async fn create(&self, segment: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.crash.point().await;
        self.takes_a_while().await;
        self.crash.point().await;
        {
            let mut content = self.content();
            if content.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.segments.insert(segment, bytes);
        }
        self.crash.point().await;
        Ok(())
    }

    async fn append(&self, segment: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.crash.point().await;
        self.content().pending = Some((segment, bytes));
        self.takes_a_while().await;
        self.crash.point().await;
        {
            let mut content = self.content();
            let Some((segment, bytes)) = content.pending.take() else { return Ok(()) };
            let full = content.full;
            let there = content.segments.entry(segment).or_default();
            if full {
                there.extend_from_slice(&bytes[..bytes.len() / 2]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            there.extend_from_slice(&bytes);
        }
        self.crash.point().await;
        Ok(())
    }

    async fn remove(&self, segment: u64) -> io::Result<()> {
        self.crash.point().await;
        self.content().segments.remove(&segment);
        Ok(())
    }
}
