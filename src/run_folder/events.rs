//! TensorBoard's event files: records of protocol-buffer messages, each between its length and checksums.
//!
//! The messages are the part of `tensorflow/core/util/event.proto` and `framework/summary.proto` that scalars need, the
//! records those of TFRecord.

use std::fs::{File, OpenOptions};
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

impl EventFile {
    /// Starts `events.out.tfevents.<Unix seconds>.dif-sr` in `folder`; TensorBoard reads all such files of a folder.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("events.out.tfevents.{}.dif-sr", Timestamp::now().as_second()));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "open the event file", e))?;
        let mut events = Self { path, file };
        events.append(Event { file_version: Some("brain.Event:2".to_owned()), ..Event::now(0) })?;
        Ok(events)
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

    /// The records of an event file, their checksums checked.
    fn read(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let n = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
            assert_eq!(bytes[8..12], masked(&bytes[..8]));
            let data = &bytes[12..12 + n];
            assert_eq!(bytes[12 + n..16 + n], masked(data));
            events.push(Event::decode(data).expect("a message"));
            bytes = &bytes[16 + n..];
        }
        events
    }

    #[test]
    fn scalars_are_read_back_with_their_steps() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut events = EventFile::create(folder.path()).expect("an event file");
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
}
