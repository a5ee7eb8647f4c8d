//! AdamW and clipping over one flat vector: plain loops, no engine.
//!
//! Source: AdamW, arXiv 1711.05101, as `torch.optim.AdamW` computes it.

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first and the second moment; f64, since `1 - 0.999` in f32 is 1.3e-5 off.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, a fraction of the learning rate.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// First and second moments, one number each for every parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of its square.
    pub second: Vec<f32>,
}

impl Moments {
    /// Zero moments of `len` parameters.
    pub fn zeros(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len] }
    }
}

impl AdamW {
    /// One update of `values` along `gradient`, all of one length; k counts from 1.
    pub fn step(
        &self,
        values: &mut [f32],
        gradient: &mut [f32],
        moments: &mut Moments,
        k: u64,
        learning_rate: f32,
    ) {
        self.moves(gradient, moments, k, learning_rate);
        self.go(values, gradient, learning_rate);
    }

    /// Turns a gradient into what it moves the values by, weight decay apart; k counts from 1.
    pub fn moves(&self, gradient: &mut [f32], moments: &mut Moments, k: u64, learning_rate: f32) {
        let correct = |beta: f64| (1.0 - beta.powf(k as f64)) as f32;
        let (c1, c2) = (correct(self.betas.0), correct(self.betas.1).sqrt());
        let (b1, b2) = (self.betas.0 as f32, self.betas.1 as f32);
        let (n1, n2) = ((1.0 - self.betas.0) as f32, (1.0 - self.betas.1) as f32);
        let rate = learning_rate / c1;
        let moments = moments.first.iter_mut().zip(&mut moments.second);
        for (g, (m, v)) in gradient.iter_mut().zip(moments) {
            *m = b1 * *m + n1 * *g;
            *v = b2 * *v + n2 * *g * *g;
            *g = -rate * *m / (v.sqrt() / c2 + self.eps);
        }
    }

    /// Lets the values decay, and moves them.
    pub fn go(&self, values: &mut [f32], moves: &[f32], learning_rate: f32) {
        let keep = 1.0 - learning_rate * self.weight_decay;
        values.iter_mut().zip(moves).for_each(|(value, step)| *value = *value * keep + step);
    }
}

/// Scales `gradient` so that its Euclidean norm is at most `max`; gives the norm it had.
///
/// As `torch.nn.utils.clip_grad_norm_`, 1e-6 in the divisor included.
pub fn clip(gradient: &mut [f32], max: f32) -> f32 {
    let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt() as f32;
    let scale = max / (norm + 1e-6);
    if scale < 1.0 {
        gradient.iter_mut().for_each(|g| *g *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_within_the_bound_is_left_alone() {
        let mut gradient = [0.3, -0.4];
        assert!((clip(&mut gradient, 1.0) - 0.5).abs() < 1e-6);
        assert_eq!(gradient, [0.3, -0.4]);
        clip(&mut gradient, 0.25);
        assert!((gradient[0] - 0.15).abs() < 1e-5);
    }

    #[test]
    fn adamw_moves_against_the_gradient_by_the_learning_rate_at_first() {
        let (mut values, mut moments) = ([1.0f32, -1.0], Moments::zeros(2));
        let adamw = AdamW { weight_decay: 0.0, ..AdamW::default() };
        adamw.step(&mut values, &mut [0.5, -2.0], &mut moments, 1, 0.01);
        // The first step's ratio of moments is the sign of the gradient.
        assert!((values[0] - 0.99).abs() < 1e-6 && (values[1] + 0.99).abs() < 1e-6);
    }
}
