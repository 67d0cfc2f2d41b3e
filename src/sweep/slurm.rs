//! Slurm's job arrays.

/// What Slurm allows where it does not say.
pub const DEFAULT_MAX_ARRAY_SIZE: usize = 1001;

/// Tasks that one job array runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// To add to an index of the array for the number of its task.
    pub offset: usize,
    /// The indices, as `--array` takes them: `0-3,7`.
    pub indices: String,
    /// How many there are.
    pub tasks: usize,
}

/// The arrays that run these tasks, whose numbers ascend. An index is below `max_array_size`, whatever the task's number.
pub fn arrays(tasks: &[usize], max_array_size: usize) -> Vec<Array> {
    let size = max_array_size.max(1);
    let chunks = tasks.chunk_by(|a, b| a / size == b / size);
    let array = |chunk: &[usize]| {
        let offset = chunk[0] / size * size;
        let indices: Vec<usize> = chunk.iter().map(|task| task - offset).collect();
        Array { offset, indices: ranges(&indices), tasks: chunk.len() }
    };
    chunks.map(array).collect()
}

/// `0-3,7`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// `MaxArraySize` of what `scontrol show config` prints.
pub fn max_array_size(config: &str) -> usize {
    let values = config.lines().filter_map(|line| line.split_once('='));
    let mut found = values.filter(|(key, _)| key.trim() == "MaxArraySize");
    found.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(DEFAULT_MAX_ARRAY_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_beyond_the_largest_index_are_in_further_arrays() {
        let array = |offset, indices: &str, tasks| Array { offset, indices: indices.to_owned(), tasks };
        assert_eq!(arrays(&[], 1001), []);
        assert_eq!(arrays(&[0, 1, 2, 3, 7], 1001), [array(0, "0-3,7", 5)]);
        let all: Vec<usize> = (0..2500).collect();
        let expected = [array(0, "0-1000", 1001), array(1001, "0-1000", 1001), array(2002, "0-497", 498)];
        assert_eq!(arrays(&all, 1001), expected);
        assert_eq!(arrays(&[999, 1000, 1001, 3010], 1001)[1..], [array(1001, "0", 1), array(3003, "7", 1)]);
        // Slurm without arrays has a size of 0 or 1: an array for each task.
        assert_eq!(arrays(&[4, 5], 0), [array(4, "0", 1), array(5, "0", 1)]);
    }

    #[test]
    fn the_largest_array_is_read_or_taken_for_slurms_own() {
        assert_eq!(max_array_size("MaxArraySize            = 40000\nMaxJobCount = 10\n"), 40_000);
        assert_eq!(max_array_size("Slurmctld(primary) is DOWN"), 1001);
    }
}
