//! Rotary frequencies stretched for contexts longer than a model was first trained on.

use std::f64::consts::TAU;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, Result, invalid};

/// A change to the rotary frequencies that lets a model read more than it was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor` (Chen et al., 2023).
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// How many times longer the context becomes.
        factor: f64,
        /// Frequencies that turn less often than this in the original context are fully stretched.
        low_freq_factor: f64,
        /// Frequencies that turn more often than this in the original context are kept.
        high_freq_factor: f64,
        /// The context the model was first trained on.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// The stretched frequency in place of `frequency`.
    pub(super) fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings,
            } => {
                // Turns the frequency makes within the original context.
                let turns = original_max_position_embeddings as f64 * frequency / TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                keep * frequency + (1.0 - keep) * frequency / factor
            }
        }
    }

    /// Refuses numbers that give no frequencies.
    pub(super) fn check(self) -> Result<()> {
        let stretches = |factor: f64| factor.is_finite() && factor > 0.0;
        match self {
            Self::Linear { factor } | Self::Llama3 { factor, .. } if !stretches(factor) => {
                invalid!("the rotary scaling factor is {factor}; it must be a number above 0")
            }
            Self::Llama3 { low_freq_factor: low, high_freq_factor: high, .. }
                if !(stretches(low) && stretches(high) && low < high) =>
            {
                invalid!(
                    "rope_scaling: low_freq_factor {low} and high_freq_factor {high} must be above 0, \
                     and the first the smaller one"
                )
            }
            _ => Ok(()),
        }
    }

    pub(super) fn to_json(self) -> Value {
        match self {
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        }
    }
}

/// `rope_scaling` or `rope_parameters` as they are on disk.
#[derive(Default, Deserialize)]
pub(super) struct RawRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files carry both.
    r#type: Option<String>,
    pub(super) rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl RawRope {
    /// The scaling they ask for, if any.
    pub(super) fn scaling(&self) -> Result<Option<RopeScaling>> {
        fn need<T>(key: &str, value: Option<T>) -> Result<T> {
            value.ok_or_else(|| Error::Invalid(format!("rope_scaling lacks {key}")))
        }
        let scaling = match self.rope_type.as_deref().or(self.r#type.as_deref()) {
            None if self.factor.is_some() => {
                invalid!("rope_scaling has a factor, but no rope_type says how it is used")
            }
            None | Some("default") => return Ok(None),
            Some("linear") => RopeScaling::Linear { factor: need("factor", self.factor)? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: need("factor", self.factor)?,
                low_freq_factor: need("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", self.high_freq_factor)?,
                original_max_position_embeddings: need(
                    "original_max_position_embeddings",
                    self.original_max_position_embeddings,
                )?,
            },
            Some(other) => invalid!(
                "rope_scaling of type {other:?} is not supported; \"linear\" and \"llama3\" are"
            ),
        };
        Ok(Some(scaling))
    }
}
