//! The cases that come with the crate.

/// The files of a case.
pub(crate) struct Bundled {
    pub name: &'static str,
    pub config: &'static str,
    pub tensors: &'static [u8],
    pub causes: &'static [u8],
    /// JSON: see [`crate::Case`].
    pub noise: Option<&'static str>,
}

macro_rules! case {
    ($name:literal) => {
        case!($name, None)
    };
    ($name:literal, $noise:expr) => {
        Bundled {
            name: $name,
            config: include_str!(concat!("../cases/", $name, "/config.yaml")),
            tensors: include_bytes!(concat!("../cases/", $name, "/tensors.safetensors")),
            causes: include_bytes!(concat!("../causes/", $name, ".safetensors")),
            noise: $noise,
        }
    };
}

/// By name.
pub(crate) static ALL: [Bundled; 15] = [
    case!("act_relu"),
    case!("act_sigmoid"),
    case!("act_swish"),
    case!("act_tanh"),
    case!("bpr"),
    case!("concat"),
    case!("concat_two_attributes"),
    case!("gate"),
    case!("gate_token"),
    case!("gate_two_attributes"),
    case!("max_pooling", Some(include_str!("../noise/max_pooling.json"))),
    case!("mean_pooling"),
    case!("no_predictor"),
    case!("sum"),
    case!("sum_two_attributes"),
];
