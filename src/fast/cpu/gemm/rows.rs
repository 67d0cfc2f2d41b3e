//! Numbers as products take them: float32, or already rounded to bfloat16.

use std::ops::Range;

use half::bf16;

use crate::config::Precision;

/// Numbers in a slice.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    Float32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// What goes from a kernel to a product. Under [`Precision::Bf16`] it is stored in bfloat16, to which the product would
/// round it: half the bytes, and nothing to convert.
#[derive(Debug)]
pub enum OperandBuffer {
    Float32(Vec<f32>),
    Bf16(Vec<bf16>),
    /// Of what nobody will read: nothing is stored.
    Unread,
}

impl Default for OperandBuffer {
    fn default() -> Self {
        Self::Float32(Vec::new())
    }
}

impl OperandBuffer {
    /// Makes room for so many numbers; with `None` for none.
    pub fn resize(&mut self, stored: impl Into<Option<Precision>>, len: usize) {
        match (stored.into(), &mut *self) {
            (Some(Precision::Float32), Self::Float32(values)) => values.resize(len, 0.0),
            (Some(Precision::Bf16), Self::Bf16(values)) => values.resize(len, bf16::ZERO),
            (Some(Precision::Float32), _) => *self = Self::Float32(vec![0.0; len]),
            (Some(Precision::Bf16), _) => *self = Self::Bf16(vec![bf16::ZERO; len]),
            (None, _) => *self = Self::Unread,
        }
    }

    pub fn size(&self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Unread => 0,
        }
    }

    /// Stores numbers from index `start` on.
    pub fn store(&mut self, start: usize, values: &[f32]) {
        match self {
            Self::Float32(to) => to[start..][..values.len()].copy_from_slice(values),
            Self::Bf16(to) => round(values, &mut to[start..][..values.len()]),
            Self::Unread => {}
        }
    }

    /// Loads the numbers from index `start` on.
    ///
    /// # Panics
    /// Nothing was stored.
    pub fn load(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::Float32(from) => out.copy_from_slice(&from[start..][..out.len()]),
            Self::Bf16(from) => widen(&from[start..][..out.len()], out),
            Self::Unread => unreachable!("nothing was stored"),
        }
    }
}

impl<'a> Numbers<'a> {
    pub fn len(self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// A part of them.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Float32(values) => Self::Float32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
        }
    }
}

impl<'a> From<&'a [f32]> for Numbers<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Float32(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Numbers<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::Float32(values)
    }
}

impl<'a> From<&'a OperandBuffer> for Numbers<'a> {
    fn from(rows: &'a OperandBuffer) -> Self {
        match rows {
            OperandBuffer::Float32(values) => Self::Float32(values),
            OperandBuffer::Bf16(values) => Self::Bf16(values),
            OperandBuffer::Unread => unreachable!("nothing was stored"),
        }
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn round(from: &[f32], to: &mut [bf16]) {
    from.iter().zip(to).for_each(|(&from, to)| *to = bf16::from_f32(from));
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn widen(from: &[bf16], to: &mut [f32]) {
    from.iter().zip(to).for_each(|(from, to)| *to = from.to_f32());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_rounded_to_the_nearest_even_bfloat16_and_loaded_again() {
        // 257 and 259 lie between the bfloat16 numbers 256, 258 and 260.
        let cases = [(257.0, 256.0), (259.0, 260.0), (-257.5, -258.0), (f32::MAX, f32::INFINITY), (0.5, 0.5)];
        let values: Vec<f32> = cases.iter().cycle().take(77).map(|(x, _)| *x).collect();
        let mut rows = OperandBuffer::default();
        rows.resize(Precision::Bf16, 80);
        rows.store(3, &values);
        let mut loaded = vec![f32::NAN; 77];
        rows.load(3, &mut loaded);
        assert_eq!(loaded, cases.iter().cycle().take(77).map(|(_, rounded)| *rounded).collect::<Vec<_>>());
        rows.store(0, &[f32::NAN; 40]);
        rows.load(0, &mut loaded);
        assert!(loaded[..40].iter().all(|x| x.is_nan()) && loaded[40] == -258.0, "a broken model must be seen");
        rows.resize(Precision::Float32, 77);
        rows.store(0, &values);
        rows.load(0, &mut loaded);
        assert_eq!(loaded, values);
        rows.resize(None, 77);
        rows.store(0, &values);
        assert_eq!(rows.size(), 0, "of what nobody reads nothing is stored");
    }
}
