//! The learning rate over a run.

/// Linear warm-up, then half a cosine down to zero.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// `warmup_ratio` of `total` steps rise to `peak`, at least one.
    pub fn new(peak: f64, warmup_ratio: f64, total: u64) -> Self {
        let warmup = ((total as f64 * warmup_ratio).round() as u64).max(1);
        Self { peak, warmup, total }
    }

    /// The steps of the run.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The learning rate of step `step`, from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let rest = (self.total - self.warmup.min(self.total)).max(1) as f64;
        let done = ((step - self.warmup) as f64 / rest).min(1.0);
        self.peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_peaks_and_falls_to_zero() {
        let s = Schedule::new(1.0, 0.1, 100);
        assert!((s.at(0) - 0.1).abs() < 1e-12);
        assert!((s.at(9) - 1.0).abs() < 1e-12);
        assert!((s.at(55) - 0.5).abs() < 1e-12);
        assert!(s.at(100) < 1e-12 && s.at(500) < 1e-12);
    }
}
