//! The layer: forward with or without a tape, over whole sequences or after a text's past, and back.
//!
//! - The residual stream x `[N, D]` becomes the next one in its place. Where only some rows of the
//!   result are wanted, attention sees all and what comes after it these alone.
//! - Gradients for x and the factors only: the base's weights are frozen.
//! - Never here: which layer this is, what its output is compared with.

use super::Turns;
use super::attention::{self, Sequences, Shape, Turn};
use super::cache::Past;
use super::head_norm;
use super::kernels;
use super::lora::{Lora, places};
use super::tape::{Saved, Tape};
use super::weights::{Part, Projection, Weights};
use crate::adapter::{Module, Target};
use crate::products::Pool;
use crate::products::gemm::{Into, Threads, View, matmul};
use crate::settings::Activations;

/// One decoder layer with one adapter, over some sequences.
pub(crate) struct Layer<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) turns: &'a Turns,
    pub(crate) pool: &'a Pool,
    /// The layer's modules, whose ranges begin at `modules[0].a.start`.
    pub(crate) modules: &'a [Module],
    /// The layer's factors, flat.
    pub(crate) factors: &'a [f32],
    pub(crate) shape: Shape,
    pub(crate) sequences: &'a Sequences,
}

/// What the rows see beside themselves.
pub(crate) enum Context<'a> {
    /// Nothing: their sequences begin with them.
    Whole,
    /// Keys and values of texts, a sequence of one length each, up to token `first`, the first of these;
    /// theirs are added.
    After {
        /// Position of the first row of each.
        first: usize,
        /// What the texts have seen.
        past: &'a mut Past,
        /// Whether the rows are tokens that were just drawn, one of each text.
        drawn: bool,
    },
}

/// What the linear layers of one backward pass share.
struct Back<'a> {
    narrow: &'a [Vec<f32>],
    gradient: &'a mut [f32],
}

impl Layer<'_> {
    /// The next residual stream in the place of x; nothing is kept.
    pub(crate) fn forward(&self, x: &mut Vec<f32>, wanted: Option<&[u32]>, context: Context<'_>) {
        self.run(x, wanted, context, false).give(self.pool);
    }

    /// The same over whole sequences, with what [`Layer::backward`] needs.
    pub(crate) fn onto_tape(
        &self,
        x: &mut Vec<f32>,
        wanted: Option<&[u32]>,
        activations: Activations,
    ) -> Tape {
        Tape::keep(self.run(x, wanted, Context::Whole, true), activations, self.pool)
    }

    /// The forward pass. What is saved without `keep` is whatever was at hand.
    pub(super) fn run(
        &self,
        x: &mut Vec<f32>,
        wanted: Option<&[u32]>,
        context: Context<'_>,
        keep: bool,
    ) -> Saved {
        let (weights, pool, eps, f) = (self.weights, self.pool, self.weights.eps, self.ffn());
        let (rows, shape) = (self.sequences.rows(), (&self.shape, self.sequences));
        let d = weights.input_norm.len();
        let single = matches!(context, Context::After { drawn: true, .. }) && rows == 1;
        let mut narrow = vec![Vec::new(); self.modules.len()];
        let copy = |x: &[f32]| if keep { pool.copy(x) } else { Vec::new() };

        let saved_x = copy(x);
        let mut inverse_attention = pool.take(rows);
        let mut normed = pool.take(rows * d);
        kernels::rms_norm(x, &weights.input_norm, eps, &mut normed, &mut inverse_attention);
        let mut qkv = pool.take(rows * self.shape.qkv());
        self.project(Part::Qkv, &normed, (&mut qkv, Into::Replace, single), &mut narrow);
        let mut raw = Vec::new();
        if let Some(norms) = &weights.head_norms {
            if keep {
                raw = pool.take(rows * (self.shape.q() + self.shape.kv()));
                head_norm::raw(&self.shape, &qkv, &mut raw);
            }
            norms.forward(&self.shape, eps, &mut qkv);
        }
        let mut attended = pool.take(rows * self.shape.q());
        let mut lse = Vec::new();
        match context {
            Context::Whole => {
                attention::rope(&mut qkv, shape, (self.turns, 0), Turn::Forward);
                lse = pool.take(rows * self.shape.heads);
                attention::attention(shape, &qkv, &mut attended, &mut lse);
            }
            Context::After { first, past, .. } => {
                attention::rope(&mut qkv, shape, (self.turns, first), Turn::Forward);
                past.keep(&self.shape, first, &qkv);
                past.attend(&self.shape, first, &qkv, &mut attended);
            }
        }
        pool.give([normed]);
        if let Some(wanted) = wanted {
            pick(x, wanted, d, pool);
        }
        let picked = wanted.map(|wanted| picked(&attended, wanted, self.shape.q(), pool));
        let input = picked.as_ref().unwrap_or(&attended);
        self.project(Part::O, input, (&mut *x, Into::Add, single), &mut narrow);
        pool.give(picked);

        let rows = x.len() / d;
        let middle = copy(x);
        let mut inverse_mlp = pool.take(rows);
        let mut normed = pool.take(rows * d);
        kernels::rms_norm(x, &weights.post_norm, eps, &mut normed, &mut inverse_mlp);
        let mut gate_up = pool.take(rows * 2 * f);
        self.project(Part::GateUp, &normed, (&mut gate_up, Into::Replace, single), &mut narrow);
        let mut active = pool.take(rows * f);
        kernels::swiglu(&gate_up, &mut active, f);
        self.project(Part::Down, &active, (&mut *x, Into::Add, single), &mut narrow);
        pool.give([normed, active]);
        Saved {
            x: saved_x,
            inverse_attention,
            raw,
            qkv,
            lse,
            attended,
            middle,
            inverse_mlp,
            gate_up,
            narrow,
        }
    }

    /// Shows what each part reads in the forward pass over x, `[N, in]`, which becomes the next stream.
    pub(crate) fn inputs(&self, x: &mut Vec<f32>, mut see: impl FnMut(Part, &[f32])) {
        let saved = self.run(x, None, Context::Whole, true);
        let gain = &self.weights.input_norm;
        let normed = self.normed_again(true, gain, &saved.x, &saved.inverse_attention);
        see(Part::Qkv, &normed);
        see(Part::O, &saved.attended);
        let gain = &self.weights.post_norm;
        let normed_again = self.normed_again(true, gain, &saved.middle, &saved.inverse_mlp);
        see(Part::GateUp, &normed_again);
        let mut active = self.pool.take(saved.gate_up.len() / 2);
        kernels::swiglu(&saved.gate_up, &mut active, self.ffn());
        see(Part::Down, &active);
        self.pool.give([normed, normed_again, active]);
        saved.give(self.pool);
    }

    /// Writes the layer's `gradient`, flat as its factors, and turns `dy`, of the rows that were `wanted`,
    /// into the gradient of x `[N, D]`.
    ///
    /// `below`: whether anything below needs that of x; if not, what comes back is meaningless.
    pub(crate) fn backward(
        &self,
        tape: Tape,
        wanted: Option<&[u32]>,
        mut dy: Vec<f32>,
        gradient: &mut [f32],
        below: bool,
    ) -> Vec<f32> {
        let Saved {
            x,
            inverse_attention,
            raw,
            qkv,
            lse,
            attended,
            middle,
            inverse_mlp,
            gate_up,
            narrow,
        } = tape.open(self.pool, |mut x| {
            let saved = self.run(&mut x, wanted, Context::Whole, true);
            self.pool.give([x]);
            saved
        });
        let mut back = Back { narrow: &narrow, gradient };
        self.mlp_backward(&middle, &inverse_mlp, gate_up, &mut back, &mut dy);
        self.pool.give([middle, inverse_mlp]);

        let (rows, d) = (self.sequences.rows(), self.weights.input_norm.len());
        let (shape, q) = ((&self.shape, self.sequences), self.shape.q());
        let mut dattended = self.pool.take(dy.len() / d * q);
        let seen = wanted.map(|wanted| picked(&attended, wanted, q, self.pool));
        let input = seen.as_ref().unwrap_or(&attended);
        self.project_backward(Part::O, input, &dy, &mut back, Some(&mut dattended));
        self.pool.give(seen);
        if let Some(wanted) = wanted {
            spread(&mut dattended, wanted, (rows, q), self.pool);
            if below {
                spread(&mut dy, wanted, (rows, d), self.pool);
            }
        }
        let mut dqkv = self.pool.take(qkv.len());
        let wants_keys = below || self.adapts(&[Target::K]);
        let saved = (&qkv[..], &attended[..], &lse[..]);
        attention::attention_backward(shape, saved, &dattended, &mut dqkv, wants_keys);
        self.pool.give([qkv, attended, dattended, lse]);
        attention::rope(&mut dqkv, shape, (self.turns, 0), Turn::Back);
        if let Some(norms) = &self.weights.head_norms {
            norms.backward(&self.shape, self.weights.eps, &raw, &mut dqkv);
        }

        let adapted = self.adapts(Part::Qkv.targets());
        let gain = &self.weights.input_norm;
        let normed = self.normed_again(adapted, gain, &x, &inverse_attention);
        let mut dnormed = self.pool.take(if below { rows * d } else { 0 });
        let dx = below.then_some(&mut dnormed[..]);
        self.project_backward(Part::Qkv, &normed, &dqkv, &mut back, dx);
        if below {
            kernels::rms_norm_backward(&dnormed, &x, gain, &inverse_attention, &mut dy);
        }
        self.pool.give([x, normed, dnormed, dqkv, raw, inverse_attention]);
        self.pool.give(narrow);
        dy
    }

    /// Adds to `stream`, the gradient after the MLP, what flows through the MLP and its norm.
    fn mlp_backward(
        &self,
        middle: &[f32],
        inverse: &[f32],
        mut gate_up: Vec<f32>,
        back: &mut Back<'_>,
        stream: &mut [f32],
    ) {
        let f = self.ffn();
        let mut active = Vec::new();
        if self.adapts(&[Target::Down]) {
            active = self.pool.take(gate_up.len() / 2);
            kernels::swiglu(&gate_up, &mut active, f);
        }
        let mut dactive = self.pool.take(gate_up.len() / 2);
        self.project_backward(Part::Down, &active, stream, back, Some(&mut dactive));
        kernels::swiglu_backward(&mut gate_up, &dactive, f);
        self.pool.give([active, dactive]);

        let (adapted, gain) = (self.adapts(Part::GateUp.targets()), &self.weights.post_norm);
        let normed = self.normed_again(adapted, gain, middle, inverse);
        let mut dnormed = self.pool.take(middle.len());
        self.project_backward(Part::GateUp, &normed, &gate_up, back, Some(&mut dnormed));
        kernels::rms_norm_backward(&dnormed, middle, gain, inverse, stream);
        self.pool.give([normed, dnormed, gate_up]);
    }

    fn ffn(&self) -> usize {
        self.weights.projection(Part::Down).frozen.fans().0
    }

    fn adapts(&self, targets: &[Target]) -> bool {
        self.modules.iter().any(|module| targets.contains(&module.target))
    }

    /// `out (+)= x W + bias + scale (x Aᵀ) Bᵀ` for the linear layers of a part, side by side.
    ///
    /// `single`: x is the one row of a text that goes on token by token, which is never rounded. One that is
    /// read is rounded with what was read before it, wherever it was cut.
    fn project(
        &self,
        part: Part,
        x: &[f32],
        (out, into, single): (&mut [f32], Into, bool),
        narrow: &mut [Vec<f32>],
    ) {
        // Of a batch without labels no row is wanted.
        if x.is_empty() {
            return;
        }
        let projection = self.weights.projection(part);
        let (fan_in, stride) = projection.frozen.fans();
        let input = View::dense(x, x.len() / fan_in, fan_in);
        match single {
            true => projection.frozen.forward_row(x, out, into),
            false => projection.frozen.forward(input, (&mut *out, stride, into), self.pool),
        }
        projection.add_bias(out);
        for &(target, first) in &projection.targets {
            let Some(lora) = Lora::of(self.modules, self.factors, target) else { continue };
            narrow[lora.index] = lora.add(input, (&mut out[first..], stride), self.pool);
        }
    }

    /// The gradients of a part's linear layers: `dx = dy Wᵀ + ...`, and those of A and B.
    ///
    /// `input`: the part's input, `[N, in]`; read only when one of its targets is adapted.
    fn project_backward(
        &self,
        part: Part,
        input: &[f32],
        dy: &[f32],
        back: &mut Back<'_>,
        mut dx: Option<&mut [f32]>,
    ) {
        if dy.is_empty() {
            return;
        }
        let Projection { frozen, targets, .. } = self.weights.projection(part);
        let ((fan_in, stride), all) = (frozen.fans(), Threads::All);
        let rows = dy.len() / stride;
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
            let thin = View::dense(&back.narrow[index], rows, r);
            let db = &mut back.gradient[b_place];
            matmul(db, r, dy.transposed(), thin, scale, Into::Replace, all);
            let da = &mut back.gradient[a_place];
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

    /// A norm's output from its input and saved factors; nothing when no gradient needs it.
    fn normed_again(&self, needed: bool, gain: &[f32], x: &[f32], inverse: &[f32]) -> Vec<f32> {
        let mut normed = self.pool.take(if needed { x.len() } else { 0 });
        if needed {
            kernels::rms_norm_again(x, gain, inverse, &mut normed);
        }
        normed
    }
}

/// Some rows of numbers `[N, width]`.
pub(crate) fn picked(numbers: &[f32], rows: &[u32], width: usize, pool: &Pool) -> Vec<f32> {
    let mut picked = pool.take(rows.len() * width);
    for (picked, &row) in picked.chunks_exact_mut(width).zip(rows) {
        picked.copy_from_slice(&numbers[row as usize * width..][..width]);
    }
    picked
}

/// Leaves some rows of numbers `[N, width]`.
fn pick(numbers: &mut Vec<f32>, rows: &[u32], width: usize, pool: &Pool) {
    let picked = picked(numbers, rows, width, pool);
    pool.give([std::mem::replace(numbers, picked)]);
}

/// Puts rows back to their places among `count`, zeros everywhere else.
fn spread(numbers: &mut Vec<f32>, rows: &[u32], (count, width): (usize, usize), pool: &Pool) {
    let mut all = pool.zeros(count * width);
    for (own, &row) in numbers.chunks_exact(width).zip(rows) {
        all[row as usize * width..][..width].copy_from_slice(own);
    }
    pool.give([std::mem::replace(numbers, all)]);
}
