//! What the ranks of a run must agree on: that all are well, that they are ranks of one run, and what the parameters
//! are.

use tch::{Device, Kind, Tensor};

use super::Ranks;
use crate::{Error, Result};

impl Ranks {
    /// Goes on where every rank could do something, and ends all where one could not.
    ///
    /// # Errors
    /// This rank's own error, or the first of another rank's; a lost rank, likewise below.
    pub fn together<T>(&self, result: Result<T>) -> Result<T> {
        if self.is_alone() {
            return result;
        }
        let told = result.as_ref().err().map(|e| format!("{}{e}", if e.is_interruption() { '!' } else { '?' }));
        let all = self.gather_texts(&told.unwrap_or_default())?;
        let result = result?;
        let Some((rank, told)) = all.iter().enumerate().find(|(_, told)| !told.is_empty()) else { return Ok(result) };
        let sentence = format!("rank {rank} has ended: {}", &told[1..]);
        Err(if told.starts_with('!') { Error::interruption(sentence) } else { Error::new(sentence) })
    }

    /// Whether any rank says yes.
    ///
    /// # Errors
    /// As above.
    pub fn any(&self, own: bool) -> Result<bool> {
        if self.is_alone() {
            return Ok(own);
        }
        Ok(self.gather(&[u8::from(own)])?.contains(&1))
    }

    /// Checks that all ranks have the same facts, each a name for a reader and a value.
    ///
    /// # Errors
    /// One of them differs.
    pub fn agree(&self, facts: &[(String, String)]) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let own: Vec<String> = facts.iter().map(|(name, value)| format!("{name}\u{1}{value}")).collect();
        let all = self.gather_texts(&own.join("\u{0}"))?;
        let facts = |text: &'_ str| -> Vec<(String, String)> {
            let pairs = text.split('\u{0}').filter_map(|fact| fact.split_once('\u{1}'));
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let first = facts(&all[0]);
        let value = |facts: &[(String, String)], name: &str| {
            facts.iter().find(|(other, _)| other == name).map_or("nothing".to_owned(), |(_, value)| value.clone())
        };
        for (rank, theirs) in all.iter().enumerate().skip(1) {
            let theirs = facts(theirs);
            let mut names = first.iter().chain(&theirs).map(|(name, _)| name);
            let Some(name) = names.find(|name| value(&first, name) != value(&theirs, name)) else { continue };
            let (expected, found) = (value(&first, name), value(&theirs, name));
            return Err(Error::new(format!(
                "the ranks are not of one run: {name} is `{expected}` at rank 0 and `{found}` at rank {rank}"
            ))
            .hint("give every rank the same command, the same program and the same files"));
        }
        Ok(())
    }

    /// Checks that all ranks have the same parameters, by a checksum of each.
    ///
    /// # Errors
    /// A parameter that differs.
    pub fn agree_on_parameters(&self, parameters: &[(String, Tensor)], when: &str) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let sums: Vec<u32> = parameters.iter().map(|(_, parameter)| checksum(parameter)).collect();
        let all = self.gather(&sums)?;
        for (rank, theirs) in all.chunks(sums.len().max(1)).enumerate() {
            if let Some(at) = theirs.iter().zip(&all).position(|(theirs, first)| theirs != first) {
                return Err(Error::new(format!(
                    "{when}, parameter `{}` of rank {rank} is no longer that of rank 0",
                    parameters[at].0
                ))
                .hint("processors or memory compute differently: run on equal machines, and go on with --resume"));
            }
        }
        Ok(())
    }

    /// Makes parameters what they are at rank 0.
    ///
    /// # Errors
    /// As above.
    pub fn broadcast_parameters(&self, parameters: Vec<(String, Tensor)>) -> Result<()> {
        for (_, mut parameter) in parameters.into_iter().filter(|_| !self.is_alone()) {
            let mut values = Vec::<f32>::try_from(parameter.detach().to_device(Device::Cpu).flatten(0, -1))?;
            self.broadcast(&mut values)?;
            tch::no_grad(|| parameter.copy_(&Tensor::from_slice(&values).view_as(&parameter)));
        }
        Ok(())
    }

    /// Every rank's text.
    fn gather_texts(&self, own: &str) -> Result<Vec<String>> {
        let lengths = self.gather(&[own.len() as u64])?;
        let most = lengths.iter().max().copied().unwrap_or(0) as usize;
        let mut bytes = own.as_bytes().to_vec();
        bytes.resize(most, 0);
        let all = self.gather(&bytes)?;
        let text = |(rank, &length): (usize, &u64)| {
            String::from_utf8_lossy(&all[rank * most..][..length as usize]).into_owned()
        };
        Ok(lengths.iter().enumerate().map(text).collect())
    }
}

/// A CRC-32C of a tensor's elements.
fn checksum(tensor: &Tensor) -> u32 {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut bytes = vec![0; tensor.numel() * 4];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    crc32c::crc32c(&bytes)
}
