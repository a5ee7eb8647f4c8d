//! A whole decoder layer on the CPU, forward and back, by hand.
//!
//! - In: x `[N, D]`, N = B * T rows, and the layer's LoRA factors, flat. Out: the next residual
//!   stream, and what the backward pass needs and cannot cheaply compute again.
//! - Gradients for x and the factors only: the base's weights are frozen.
//! - Invariant: every buffer comes from the pool and goes back as soon as it is spent.
//! - Never here: other devices (`reference.rs`), the loss (`tape.rs`).

use super::attention::{self, Shape, Turn};
use super::kernels;
use super::layer::Rotary;
use super::lora::{Lora, places};
use crate::adapter::{Module, Target};
use crate::products::Pool;
use crate::products::gemm::{Into, Threads, View, matmul};
use crate::settings::Activations;
use crate::weights::{Layer, Part, Projection};
use candle_core::{Result, bail};
use half::bf16;

/// What the forward pass keeps for the backward pass.
pub(crate) struct Saved {
    /// 1 / rms before attention, `[N]`.
    inverse_attention: Vec<f32>,
    /// Rotated queries and keys, and values, `[N, qkv]`.
    qkv: Vec<f32>,
    /// Log-sum-exp of each row of scores, `[B, heads, T]`.
    lse: Vec<f32>,
    /// The attention's output, `[N, q]`.
    attended: Vec<f32>,
    /// The residual stream after attention, `[N, D]`.
    middle: Vec<f32>,
    /// 1 / rms before the MLP, `[N]`.
    inverse_mlp: Vec<f32>,
    /// Gate and up side by side, `[N, 2 F]`.
    gate_up: Vec<f32>,
    /// `input Aᵀ` of every module, `[N, r]` each, in the order of the modules.
    narrow: Vec<Vec<f32>>,
}

/// One decoder layer with one adapter.
pub(crate) struct FusedLayer<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) rotary: &'a Rotary,
    pub(crate) pool: &'a Pool,
    /// The layer's modules, whose ranges begin at `modules[0].a.start`.
    pub(crate) modules: &'a [Module],
    /// The layer's factors, flat.
    pub(crate) factors: &'a [f32],
    pub(crate) shape: Shape,
}

/// What the linear layers of one backward pass share.
struct Pass<'a> {
    narrow: &'a [Vec<f32>],
    gradient: &'a mut [f32],
}

impl FusedLayer<'_> {
    fn rows(&self) -> usize {
        self.shape.batch * self.shape.tokens
    }

    fn ffn(&self) -> usize {
        self.layer.projection(Part::Down).frozen.fans().0
    }

    fn adapts(&self, targets: &[Target]) -> bool {
        self.modules.iter().any(|module| targets.contains(&module.target))
    }

    /// `out (+)= x W + bias + scale (x Aᵀ) Bᵀ` for the linear layers of a part, side by side.
    fn project(
        &self,
        part: Part,
        x: &[f32],
        (out, into): (&mut [f32], Into),
        narrow: &mut [Vec<f32>],
    ) {
        let projection = self.layer.projection(part);
        let (rows, (fan_in, stride)) = (self.rows(), projection.frozen.fans());
        let input = View::dense(x, rows, fan_in);
        projection.frozen.forward(input, (&mut *out, stride, into), self.pool);
        projection.add_bias(out);
        for &(target, first) in &projection.targets {
            let Some(lora) = Lora::of(self.modules, self.factors, target) else { continue };
            narrow[lora.index] = lora.add(input, (&mut out[first..], stride), self.pool);
        }
    }

    /// The gradients of a part's linear layers: `dx (+)= dy Wᵀ + ...`, and those of A and B.
    ///
    /// `input`: the part's input, `[N, in]`; read only when one of its targets is adapted.
    fn project_backward(
        &self,
        part: Part,
        input: &[f32],
        dy: &[f32],
        pass: &mut Pass<'_>,
        mut dx: Option<&mut [f32]>,
    ) {
        let Projection { frozen, targets, .. } = self.layer.projection(part);
        let (rows, (fan_in, stride), all) = (self.rows(), frozen.fans(), Threads::All);
        if let Some(dx) = &mut dx {
            let dy = View::dense(dy, rows, stride);
            frozen.backward(dy, (&mut **dx, Into::Replace), self.pool);
        }
        for &(target, first) in targets {
            let Some(lora) = Lora::of(self.modules, self.factors, target) else { continue };
            let Lora { index, module, a, b } = lora;
            let (r, scale, (a_place, b_place)) =
                (module.rank, module.scale, places(self.modules, module));
            let dy = View::new(&dy[first..], rows, module.fan_out, stride);
            let mut slope = self.pool.take(rows * r);
            let b = View::dense(b, module.fan_out, r);
            matmul(&mut slope, r, dy, b, scale, Into::Replace, all);
            let thin = View::dense(&pass.narrow[index], rows, r);
            let db = &mut pass.gradient[b_place];
            matmul(db, r, dy.transposed(), thin, scale, Into::Replace, all);
            let da = &mut pass.gradient[a_place];
            let thin = View::dense(&slope, rows, r);
            let input = View::dense(input, rows, fan_in);
            matmul(da, fan_in, thin.transposed(), input, 1.0, Into::Replace, all);
            if let Some(dx) = &mut dx {
                let a = View::dense(a, r, fan_in);
                matmul(dx, fan_in, thin, a, 1.0, Into::Add, all);
            }
            self.pool.give([slope]);
        }
    }

    /// The next residual stream, and what a backward pass needs if one follows (`keep`).
    pub(crate) fn forward(&self, x: &[f32], keep: bool) -> (Vec<f32>, Option<Saved>) {
        let (rows, shape, eps, f) = (self.rows(), &self.shape, self.layer.eps, self.ffn());
        let d = x.len() / rows;
        let mut narrow = vec![Vec::new(); self.modules.len()];

        let mut inverse_attention = self.pool.take(rows);
        let mut normed = self.pool.take(rows * d);
        let gain = &self.layer.input_norm;
        kernels::rms_norm(x, gain, eps, &mut normed, &mut inverse_attention);
        let mut qkv = self.pool.take(rows * shape.qkv());
        self.project(Part::Qkv, &normed, (&mut qkv, Into::Replace), &mut narrow);
        attention::rope(&mut qkv, shape, &self.rotary.cos, &self.rotary.sin, Turn::Forward);
        let mut attended = self.pool.take(rows * shape.q());
        let mut lse = self.pool.take(shape.batch * shape.heads * shape.tokens);
        attention::attention(shape, &qkv, &mut attended, &mut lse);
        let mut middle = self.pool.copy(x);
        self.project(Part::O, &attended, (&mut middle, Into::Add), &mut narrow);

        let mut inverse_mlp = self.pool.take(rows);
        let gain = &self.layer.post_norm;
        kernels::rms_norm(&middle, gain, eps, &mut normed, &mut inverse_mlp);
        let mut gate_up = self.pool.take(rows * 2 * f);
        self.project(Part::GateUp, &normed, (&mut gate_up, Into::Replace), &mut narrow);
        let mut active = self.pool.take(rows * f);
        kernels::swiglu(&gate_up, &mut active, f);
        let mut y = self.pool.copy(&middle);
        self.project(Part::Down, &active, (&mut y, Into::Add), &mut narrow);
        self.pool.give([normed, active]);
        let saved =
            Saved { inverse_attention, qkv, lse, attended, middle, inverse_mlp, gate_up, narrow };
        if keep {
            return (y, Some(saved));
        }
        saved.give(self.pool);
        (y, None)
    }

    /// Shows what each part read in the forward pass over `x` that saved `saved`, `[N, in]`.
    pub(crate) fn inputs(&self, x: &[f32], saved: Saved, mut see: impl FnMut(Part, &[f32])) {
        let f = self.ffn();
        let gain = &self.layer.input_norm;
        let normed = self.normed_again(true, gain, x, &saved.inverse_attention);
        see(Part::Qkv, &normed);
        see(Part::O, &saved.attended);
        let gain = &self.layer.post_norm;
        let normed_again = self.normed_again(true, gain, &saved.middle, &saved.inverse_mlp);
        see(Part::GateUp, &normed_again);
        let mut active = self.pool.take(self.rows() * f);
        kernels::swiglu(&saved.gate_up, &mut active, f);
        see(Part::Down, &active);
        self.pool.give([normed, normed_again, active]);
        saved.give(self.pool);
    }

    /// Writes the layer's `gradient`, flat as its factors, and turns `dy` into the gradient of x.
    ///
    /// `below`: whether anything below needs that of x; if not, what comes back is meaningless.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        dy: Vec<f32>,
        saved: Saved,
        gradient: &mut [f32],
        below: bool,
    ) -> Vec<f32> {
        let Saved { inverse_attention, qkv, lse, attended, middle, inverse_mlp, gate_up, narrow } =
            saved;
        let mut pass = Pass { narrow: &narrow, gradient };
        let mut stream = dy;
        self.mlp_backward(&middle, &inverse_mlp, gate_up, &mut pass, &mut stream);
        self.pool.give([middle, inverse_mlp]);

        let (rows, shape) = (self.rows(), &self.shape);
        let d = x.len() / rows;
        let mut dattended = self.pool.take(rows * shape.q());
        self.project_backward(Part::O, &attended, &stream, &mut pass, Some(&mut dattended));
        let mut dqkv = self.pool.take(qkv.len());
        attention::attention_backward(shape, &qkv, &attended, &lse, &dattended, &mut dqkv);
        self.pool.give([qkv, attended, dattended, lse]);
        attention::rope(&mut dqkv, shape, &self.rotary.cos, &self.rotary.sin, Turn::Back);

        let adapted = self.adapts(&[Target::Q, Target::K, Target::V]);
        let gain = &self.layer.input_norm;
        let normed = self.normed_again(adapted, gain, x, &inverse_attention);
        let mut dnormed = self.pool.take(if below { rows * d } else { 0 });
        let dx = below.then_some(&mut dnormed[..]);
        self.project_backward(Part::Qkv, &normed, &dqkv, &mut pass, dx);
        if below {
            kernels::rms_norm_backward(&dnormed, x, gain, &inverse_attention, &mut stream);
        }
        self.pool.give([normed, dnormed, dqkv, inverse_attention]);
        self.pool.give(narrow);
        stream
    }

    /// Adds to `stream`, the gradient after the MLP, what flows through the MLP and its norm.
    fn mlp_backward(
        &self,
        middle: &[f32],
        inverse: &[f32],
        mut gate_up: Vec<f32>,
        pass: &mut Pass<'_>,
        stream: &mut [f32],
    ) {
        let (rows, f) = (self.rows(), self.ffn());
        let d = stream.len() / rows;
        let mut active = Vec::new();
        if self.adapts(&[Target::Down]) {
            active = self.pool.take(rows * f);
            kernels::swiglu(&gate_up, &mut active, f);
        }
        let mut dactive = self.pool.take(rows * f);
        self.project_backward(Part::Down, &active, stream, pass, Some(&mut dactive));
        kernels::swiglu_backward(&mut gate_up, &dactive, f);
        self.pool.give([active, dactive]);

        let (adapted, gain) = (self.adapts(&[Target::Gate, Target::Up]), &self.layer.post_norm);
        let normed = self.normed_again(adapted, gain, middle, inverse);
        let mut dnormed = self.pool.take(rows * d);
        self.project_backward(Part::GateUp, &normed, &gate_up, pass, Some(&mut dnormed));
        kernels::rms_norm_backward(&dnormed, middle, gain, inverse, stream);
        self.pool.give([normed, dnormed, gate_up]);
    }

    /// A norm's output from its input and saved factors; nothing when no gradient needs it.
    fn normed_again(&self, needed: bool, gain: &[f32], x: &[f32], inverse: &[f32]) -> Vec<f32> {
        let mut normed = self.pool.take(if needed { x.len() } else { 0 });
        if needed {
            kernels::rms_norm_again(x, gain, inverse, &mut normed);
        }
        normed
    }
}

impl Saved {
    fn give(self, pool: &Pool) {
        let Self { inverse_attention, qkv, lse, attended, middle, inverse_mlp, gate_up, narrow } =
            self;
        pool.give([inverse_attention, qkv, lse, attended, middle, inverse_mlp, gate_up]);
        pool.give(narrow);
    }

    /// The buffers that hold a whole row of activations.
    fn large(&mut self) -> [&mut Vec<f32>; 4] {
        [&mut self.qkv, &mut self.attended, &mut self.middle, &mut self.gate_up]
    }
}

/// One layer's entry on the tape: its input and what its forward pass saved, as kept meanwhile.
pub(crate) struct Entry {
    x: Vec<f32>,
    /// Nothing when the layer runs again.
    saved: Option<Saved>,
    activations: Activations,
}

impl Entry {
    /// Keeps a layer's input and what it saved.
    pub(crate) fn new(
        x: Vec<f32>,
        mut saved: Saved,
        activations: Activations,
        pool: &Pool,
    ) -> Self {
        let mut entry = Self { x, saved: None, activations };
        match activations {
            Activations::F32 => entry.saved = Some(saved),
            Activations::Recompute => saved.give(pool),
            Activations::Bf16 => {
                saved.large().into_iter().for_each(|numbers| halve(numbers, pool));
                halve(&mut entry.x, pool);
                entry.saved = Some(saved);
            }
        }
        entry
    }

    /// The same in f32 again; `layer` is the one that made it.
    pub(crate) fn open(mut self, layer: &FusedLayer<'_>) -> Result<(Vec<f32>, Saved)> {
        let saved = match self.saved.take() {
            Some(saved) => Some(saved),
            None => {
                let (y, saved) = layer.forward(&self.x, true);
                layer.pool.give([y]);
                saved
            }
        };
        let Some(mut saved) = saved else { bail!("a layer saved nothing") };
        if self.activations == Activations::Bf16 {
            let gate_up = layer.rows() * layer.layer.projection(Part::GateUp).frozen.fans().1;
            let stream = layer.rows() * layer.layer.projection(Part::Qkv).frozen.fans().0;
            let (qkv, q) = (layer.rows() * layer.shape.qkv(), layer.rows() * layer.shape.q());
            let lens = [qkv, q, stream, gate_up];
            for (numbers, len) in saved.large().into_iter().zip(lens) {
                double(numbers, len, layer.pool);
            }
            double(&mut self.x, stream, layer.pool);
        }
        Ok((self.x, saved))
    }
}

/// Rounds numbers to bf16, two in the place of one.
fn halve(numbers: &mut Vec<f32>, pool: &Pool) {
    let mut halves = pool.take(numbers.len().div_ceil(2));
    let narrow: &mut [bf16] = bytemuck::cast_slice_mut(&mut halves);
    kernels::narrow(numbers, &mut narrow[..numbers.len()]);
    pool.give([std::mem::replace(numbers, halves)]);
}

/// Undoes [`halve`] for `len` numbers.
fn double(numbers: &mut Vec<f32>, len: usize, pool: &Pool) {
    let mut wide = pool.take(len);
    kernels::widen(&bytemuck::cast_slice(numbers)[..len], &mut wide);
    pool.give([std::mem::replace(numbers, wide)]);
}
