//! TensorBoard's event files: records of protocol-buffer messages, each between its length and checksums.
//!
//! The messages are the part of `tensorflow/core/util/event.proto` and `framework/summary.proto` that scalars need, the
//! records those of TFRecord.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use prost::Message;

use crate::{Error, Result};

/// One event file, only ever appended to.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Unix seconds.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    // Optional, so that a zero is written.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// `SessionStatus`.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionStatus.START`: what TensorBoard has of this step and of later ones is void.
const START: i32 = 1;

/// How the files' names begin and end; between stand Unix seconds.
const NAME: [&str; 2] = ["events.out.tfevents.", ".dif-sr"];

impl EventFile {
    /// Starts `events.out.tfevents.<Unix seconds>.dif-sr` in `folder`; TensorBoard reads all such files of a folder, in the order
    /// of their names. Where a run goes on, `goes_on_at` is the first step that is still to come.
    pub fn create(folder: &Path, goes_on_at: Option<usize>) -> Result<Self> {
        let newest = files(folder)?.into_iter().map(|(second, _)| second).max();
        let now = Timestamp::now().as_second();
        let path = folder.join(NAME.join(&newest.map_or(now, |newest| now.max(newest + 1)).to_string()));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "open the event file", e))?;
        let mut events = Self { path, file };
        events.append(Event { file_version: Some("brain.Event:2".to_owned()), ..Event::now(0) })?;
        if let Some(step) = goes_on_at {
            // A TensorBoard that has read the former files already hears of it, too.
            events.append(Event { session_log: Some(SessionLog { status: START }), ..Event::now(step) })?;
        }
        Ok(events)
    }

    /// Takes away, from all event files of a folder, `step`, later ones and what a killed process left of a record. A file
    /// without any step left goes.
    pub fn cut_back(folder: &Path, step: usize) -> Result<()> {
        for (_, path) in files(folder)? {
            let bytes = fs::read(&path).map_err(|e| Error::io(&path, "read the file", e))?;
            let records: Vec<(Event, usize)> = Records(&bytes, 0).collect();
            let kept = records.iter().position(|(event, _)| event.summary.is_some() && event.step >= step as i64);
            let kept = &records[..kept.unwrap_or(records.len())];
            if kept.iter().all(|(event, _)| event.summary.is_none()) {
                fs::remove_file(&path).map_err(|e| Error::io(&path, "remove the file", e))?;
            } else if let Some(&(_, end)) = kept.last().filter(|(_, end)| *end < bytes.len()) {
                let file = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(end as u64));
                file.map_err(|e| Error::io(&path, "cut the file", e))?;
            }
        }
        Ok(())
    }

    /// Appends one value for each tag at `step`.
    pub fn scalars(&mut self, step: usize, values: impl IntoIterator<Item = (String, f64)>) -> Result<()> {
        let value = values.into_iter().map(|(tag, value)| Scalar { tag, simple_value: Some(value as f32) }).collect();
        self.append(Event { summary: Some(Summary { value }), ..Event::now(step) })
    }

    fn append(&mut self, event: Event) -> Result<()> {
        // In one write: a reader that follows the file sees whole records.
        self.file.write_all(&record(&event.encode_to_vec())).map_err(|e| Error::io(&self.path, "append events", e))
    }
}

impl Event {
    fn now(step: usize) -> Self {
        let wall_time = Timestamp::now().as_millisecond() as f64 / 1000.0;
        Self { wall_time, step: step as i64, ..Self::default() }
    }
}

/// The event files of a folder with the seconds in their names.
fn files(folder: &Path) -> Result<Vec<(i64, PathBuf)>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read the run folder", e))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let second = |path: &Path| path.file_name()?.to_str()?.strip_prefix(NAME[0])?.strip_suffix(NAME[1])?.parse().ok();
    Ok(paths.filter_map(|path| Some((second(&path)?, path))).collect())
}

/// The events of a file and where each of them ends, up to the first that is not whole.
struct Records<'a>(&'a [u8], usize);

impl Iterator for Records<'_> {
    type Item = (Event, usize);

    fn next(&mut self) -> Option<(Event, usize)> {
        let rest = &self.0[self.1..];
        let length = rest.get(..8)?;
        let n = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let end = n.checked_add(16)?;
        let data = rest.get(..end)?.get(12..12 + n)?;
        if rest[8..12] != masked(length) || rest[12 + n..end] != masked(data) {
            return None;
        }
        self.1 += end;
        Some((Event::decode(data).ok()?, self.1))
    }
}

/// A TFRecord: length, its checksum, the data, their checksum, all little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// TFRecord's masked CRC-32C: rotated and shifted, so that a checksum over checksums stays a good one.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a file, every byte of which belongs to a whole record.
    fn read(bytes: &[u8]) -> Vec<Event> {
        let records: Vec<_> = Records(bytes, 0).collect();
        assert_eq!(records.last().map_or(0, |(_, end)| *end), bytes.len());
        records.into_iter().map(|(event, _)| event).collect()
    }

    #[test]
    fn scalars_are_read_back_with_their_steps() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut events = EventFile::create(folder.path(), None).expect("an event file");
        events.scalars(3, [("loss/total".to_owned(), 1.5), ("valid/recall@5".to_owned(), 0.0)]).expect("appended");
        let read = read(&std::fs::read(&events.path).expect("the file"));
        assert_eq!(read[0].file_version.as_deref(), Some("brain.Event:2"));
        let summary = read[1].summary.as_ref().expect("a summary");
        let values: Vec<_> = summary.value.iter().map(|v| (v.tag.as_str(), v.simple_value)).collect();
        assert_eq!((read.len(), read[1].step), (2, 3));
        assert_eq!(values, [("loss/total", Some(1.5)), ("valid/recall@5", Some(0.0))]);
    }

    #[test]
    fn the_first_record_is_the_one_that_tensorboard_writes() {
        // An event of wall time 0 with the version alone, as TensorFlow's record writer frames it.
        let event = Event { file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        let bytes = record(&event.encode_to_vec());
        assert_eq!(bytes[..8], 15_u64.to_le_bytes());
        assert_eq!(&bytes[12..27], b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn what_is_cut_back_leaves_earlier_steps_and_no_half_record() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let steps = |goes_on_at: Option<usize>, steps: std::ops::Range<usize>| {
            let mut events = EventFile::create(folder.path(), goes_on_at).expect("an event file");
            steps.for_each(|step| events.scalars(step, [("a".to_owned(), step as f64)]).expect("appended"));
            events.path
        };
        let first = steps(None, 0..5);
        let second = steps(Some(3), 3..6);
        assert!(first < second, "read in this order");
        fs::write(&first, [&fs::read(&first).expect("the file")[..], b"half of a rec"].concat()).expect("written");
        EventFile::cut_back(folder.path(), 3).expect("cut");
        assert!(!second.exists(), "nothing of it is left");
        let left = read(&fs::read(&first).expect("the file"));
        assert_eq!(left[1..].iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 2]);
        let third = steps(Some(3), 3..4);
        let events = read(&fs::read(third).expect("the file"));
        assert_eq!(events[1].session_log, Some(SessionLog { status: START }));
        assert_eq!((events[1].step, events[2].step), (3, 3));
        EventFile::cut_back(folder.path(), 0).expect("cut");
        assert!(files(folder.path()).expect("a folder").is_empty());
    }
}
