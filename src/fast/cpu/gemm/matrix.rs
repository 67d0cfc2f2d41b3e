//! A matrix in a slice, and what a product does with the output it finds.

use std::ops::Range;

use super::rows::Numbers;

/// A row-major matrix in a slice, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    pub data: Numbers<'a>,
    /// Columns in memory, before the transposition.
    pub columns: usize,
    /// From a row in memory to the next.
    pub stride: usize,
    pub transposed: bool,
}

impl<'a> MatRef<'a> {
    /// All of `data`, in rows of `columns`.
    pub fn new(data: impl Into<Numbers<'a>>, columns: usize) -> Self {
        let data = data.into();
        assert_eq!(data.len() % columns, 0);
        Self { data, columns, stride: columns, transposed: false }
    }

    /// The columns from `start` on, of a matrix that is not transposed.
    pub fn column_range(self, start: usize, columns: usize) -> Self {
        assert!(!self.transposed && start + columns <= self.columns);
        Self { data: self.data.slice(start..self.data.len()), columns, ..self }
    }

    /// Some rows of a matrix that is not transposed.
    pub fn row_range(self, rows: Range<usize>) -> Self {
        assert!(!self.transposed);
        let end = self.data.len().min(rows.end * self.stride);
        Self { data: self.data.slice((rows.start * self.stride).min(end)..end), ..self }
    }

    /// The transpose, as a view.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows in memory.
    pub fn rows(self) -> usize {
        self.data.len().div_ceil(self.stride)
    }

    /// Rows and columns.
    pub fn shape(self) -> [usize; 2] {
        let size = [self.rows(), self.columns];
        if self.transposed { [size[1], size[0]] } else { size }
    }
}

/// What a product does with its output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Epilogue<'a, T = f32> {
    /// out = a · b
    Overwrite,
    /// out += a · b
    Accumulate,
    /// out = a · b + bias, the bias `[n]` added to every row.
    Bias(&'a [T]),
}

#[cfg(target_arch = "x86_64")]
impl<T> Epilogue<'_, T> {
    /// That of the columns from j on.
    pub fn from_column(self, j: usize) -> Self {
        match self {
            Epilogue::Bias(row) => Epilogue::Bias(&row[j..]),
            epilogue => epilogue,
        }
    }
}
