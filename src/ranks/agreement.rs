//! What the ranks of a run must agree on: that all are well, that they are ranks of one run, and what the parameters
//! are.

use tch::{Device, Kind, Tensor};

use super::team::consecutive;
use super::{Ranks, Team};
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
        let texts = self.gather_texts(&serde_json::to_string(facts).expect("text is JSON"))?;
        let all: Vec<Vec<(String, String)>> =
            texts.iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect();
        let value = |rank: usize, name: &str| {
            all[rank].iter().find(|(other, _)| other == name).map_or("nothing", |(_, value)| value.as_str())
        };
        for rank in 1..all.len() {
            let mut names = all[0].iter().chain(&all[rank]).map(|(name, _)| name);
            let Some(name) = names.find(|name| value(0, name) != value(rank, name)) else { continue };
            let (expected, found) = (value(0, name), value(rank, name));
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
        let parts = consecutive(lengths.into_iter().map(|length| length as usize));
        let all = Team::new(self.clone(), 1).gather(own.as_bytes().to_vec(), &parts)?;
        Ok(parts.into_iter().map(|part| String::from_utf8_lossy(&all[part]).into_owned()).collect())
    }
}

/// A CRC-32C of a tensor's elements.
fn checksum(tensor: &Tensor) -> u32 {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut bytes = vec![0; tensor.numel() * 4];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    crc32c::crc32c(&bytes)
}
