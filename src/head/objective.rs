//! The I-LoRA loss over a batch, its gradient for the fast adapter, and nats for evaluation.
//!
//! `L = f CE(fresh) + r CE(replay) + gamma * D(h(replay; fast), h(replay; slow))`, or CE(fresh)
//! alone without replay. CE: mean over labels of its group. f and r: the groups' parts of the blocks,
//! `f = n_fresh / (n_fresh + n_replay)`, `r = 1 - f`. D: `|h_fast - h_slow|^2 / |h_slow|^2`, mean over
//! the real positions of the replayed blocks, averaged over the compared layers; h is the residual
//! stream after a layer, before the final norm; the slow side carries no gradient.
//!
//! Source: I-LoRA, arXiv 2402.18865, section 4.2, where both groups have as many blocks, and D is the
//! plain mean of squares. That is another loss on every base: the root mean square of h is about 3 in
//! the shipped one, by what gamma did there, and 40 to 68 in SmolLM2-135M.

use super::{Factors, Head, HeadError, Kernels, entropy};
use crate::adapter::Adapter;
use crate::block::Block;
use crate::settings::EmbeddingLayers;
use candle_core::{Device, Tensor};
use ndarray::Array3;

/// Blocks and their hidden states at the tap.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    /// The blocks, B of them.
    pub blocks: &'a [&'a Block],
    /// `[B, T, D]`, T at least the longest block; rows past a block's end hold finite padding.
    pub hidden: &'a Array3<f32>,
}

impl Group<'_> {
    /// Rows of `[B * T]` that predict a label, and the labels; `first` is the group's first block.
    fn predictions(&self, first: usize, tokens: usize) -> (Vec<u32>, Vec<u32>) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (index, block) in self.blocks.iter().enumerate() {
            for t in 1..block.tokens.len() {
                if block.learn[t] {
                    rows.push(((first + index) * tokens + t - 1) as u32);
                    targets.push(block.tokens[t]);
                }
            }
        }
        (rows, targets)
    }

    /// The mean of each block's own nats, `[B]`, 0 without labels; `nats` are those of all its labels.
    pub(super) fn means(&self, nats: &[f32]) -> Vec<f32> {
        let mut nats = nats.iter().copied().map(f64::from);
        let mean = |block: &&Block| {
            let labels = block.learn.iter().skip(1).filter(|&&learn| learn).count();
            (nats.by_ref().take(labels).sum::<f64>() / labels.max(1) as f64) as f32
        };
        self.blocks.iter().map(mean).collect()
    }
}

/// How far hidden states are from those that they are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// The squared distance in parts of the squared length, mean over positions: 0.01 is a tenth of
    /// the length, on every base.
    Relative,
    /// The mean square over channels where slow is above fast, as the authors' public code has it.
    OneSided,
}

/// Added to a squared length before something is divided by it.
pub(super) const LENGTH_MIN: f32 = 1e-12;

/// What the step minimises besides cross-entropy.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Weight of the distance, in nats; 0 leaves the slow forward out.
    pub gamma: f32,
    /// Which hidden states it compares.
    pub layers: EmbeddingLayers,
    /// How it is measured.
    pub distance: Distance,
}

/// The parts of one step's loss, in nats a label; the distance in its own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// CE of the fresh blocks.
    pub fresh: f32,
    /// CE of the replayed blocks, if any.
    pub replay: Option<f32>,
    /// Distance between fast and slow, if computed.
    pub embedding: Option<f32>,
    /// Divergence from the base on text of its own, if computed.
    pub anchor: Option<f32>,
    /// What was minimised.
    pub total: f32,
}

/// What a batch says of the fast adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// The parts of its loss.
    pub losses: Losses,
    /// CE of every fresh block by itself, in nats a label, `[B]`; 0 for a block without labels.
    pub of_blocks: Vec<f32>,
    /// The gradient of `losses.total` for the adapter's flat values.
    pub values: Vec<f32>,
}

pub(super) fn tensor3(hidden: &Array3<f32>, device: &Device) -> candle_core::Result<Tensor> {
    let (b, t, d) = hidden.dim();
    match hidden.as_slice() {
        Some(numbers) => Tensor::from_slice(numbers, (b, t, d), device),
        None => Tensor::from_vec(hidden.iter().copied().collect(), (b, t, d), device),
    }
}

/// Rows of both groups' `[B * T]` that predict a label, the labels, and how many are fresh.
pub(super) fn labels(
    fresh: &Group<'_>,
    replay: Option<&Group<'_>>,
    tokens: usize,
) -> (Vec<u32>, Vec<u32>, usize) {
    let (mut rows, mut targets) = fresh.predictions(0, tokens);
    let fresh_labels = targets.len();
    if let Some(group) = replay {
        let (more_rows, more_targets) = group.predictions(fresh.blocks.len(), tokens);
        rows.extend(more_rows);
        targets.extend(more_targets);
    }
    (rows, targets, fresh_labels)
}

/// The weights of the cross-entropies of fresh and replayed blocks: the part of the blocks that each is.
pub(super) fn shares(fresh: &Group<'_>, replay: Option<&Group<'_>>) -> [f32; 2] {
    let count = |group: &Group<'_>| group.blocks.len() as f32;
    let (new, old) = (count(fresh), replay.map_or(0.0, count));
    let all = (new + old).max(1.0);
    [new / all, old / all]
}

/// Hidden states padded to `tokens` rows a sequence.
fn padded(group: &Group<'_>, tokens: usize, device: &Device) -> candle_core::Result<Tensor> {
    tensor3(group.hidden, device)?.pad_with_zeros(1, 0, tokens - group.hidden.dim().1)
}

impl Head {
    /// The losses of one batch and the gradient of their total for the fast adapter.
    ///
    /// `replay`: the replayed blocks and the slow adapter. A group without labels adds nothing.
    /// # Errors
    /// [`HeadError::Adapter`] when an adapter does not fit; [`HeadError::Length`] when a sequence
    /// is longer than the head was loaded for.
    pub fn gradient(
        &self,
        fast: &Adapter,
        fresh: &Group<'_>,
        replay: Option<(&Group<'_>, &Adapter)>,
        objective: &Objective,
    ) -> Result<Gradient, HeadError> {
        let tokens = fresh.hidden.dim().1.max(replay.map_or(0, |(group, _)| group.hidden.dim().1));
        self.check_length(tokens)?;
        match self.kernels {
            Kernels::Fused => {
                self.check(fast)?;
                replay.map_or(Ok(()), |(_, slow)| self.check(slow))?;
                self.gradient_by_hand(fast, fresh, replay, objective, tokens)
            }
            Kernels::Reference => self.gradient_by_autograd(fast, fresh, replay, objective, tokens),
        }
    }

    /// `KL(base || fast)` of the predictions of every label of `group`, in nats a label, and the
    /// gradient of `weight` times it for the fast adapter.
    ///
    /// It holds fast to what the bare base says of text that it wrote itself.
    /// # Errors
    /// As [`Head::gradient`].
    pub fn anchor(
        &self,
        fast: &Adapter,
        group: &Group<'_>,
        weight: f32,
    ) -> Result<(f32, Vec<f32>), HeadError> {
        self.check_length(group.hidden.dim().1)?;
        match self.kernels {
            Kernels::Fused => {
                self.check(fast)?;
                self.anchor_by_hand(fast, group, weight)
            }
            Kernels::Reference => self.anchor_by_autograd(fast, group, weight),
        }
    }

    /// [`Head::anchor`] by candle's ops and autograd: the oracle of the other.
    fn anchor_by_autograd(
        &self,
        fast: &Adapter,
        group: &Group<'_>,
        weight: f32,
    ) -> Result<(f32, Vec<f32>), HeadError> {
        let (b, t, d) = group.hidden.dim();
        let (rows, _, labels) = labels(group, None, t);
        if labels == 0 {
            return Ok((0.0, vec![0.0; fast.values.len()]));
        }
        let x = tensor3(group.hidden, &self.device)?;
        let rows = Tensor::from_slice(&rows, rows.len(), &self.device)?;
        let normed = |out: Tensor| {
            self.normed(&out.reshape((b * t, d))?.index_select(&rows, 0)?)?.contiguous()
        };
        let (bare, _) = self.factors(None, self.own(), false)?;
        let base = normed(self.forward(&x, &bare, |_, _| Ok(()))?)?;
        let (factors, vars) = self.factors(Some(fast), self.own(), true)?;
        let own = normed(self.forward(&x, &factors, |_, _| Ok(()))?)?;
        let kl = (entropy::divergence(&own, &base, &self.lm_head.tensor()?)? / labels as f64)?;
        let loss = (&kl * f64::from(weight))?;
        Ok((kl.to_scalar()?, self.collect(&loss, &vars, fast.values.len())?))
    }

    /// [`Head::gradient`] by candle's ops and autograd, on any device: the oracle of the other.
    fn gradient_by_autograd(
        &self,
        fast: &Adapter,
        fresh: &Group<'_>,
        replay: Option<(&Group<'_>, &Adapter)>,
        objective: &Objective,
        tokens: usize,
    ) -> Result<Gradient, HeadError> {
        let mut x = padded(fresh, tokens, &self.device)?;
        let fresh_blocks = fresh.blocks.len();
        let mut replayed = None;
        if let Some((group, slow)) = replay {
            let hidden = padded(group, tokens, &self.device)?;
            x = Tensor::cat(&[&x, &hidden], 0)?;
            replayed = Some((group, slow, hidden));
        }
        let (factors, vars) = self.factors(Some(fast), self.own(), true)?;
        let mut compared = Vec::new();
        let last = self.layers.len().saturating_sub(1);
        let wanted = |index| match objective.layers {
            EmbeddingLayers::Last => index == last,
            EmbeddingLayers::All => true,
        };
        let out = self.forward(&x, &factors, |index, h| {
            if wanted(index) && replayed.is_some() && objective.gamma != 0.0 {
                compared.push(h.clone());
            }
            Ok(())
        })?;

        let replay_group = replay.map(|(group, _)| group);
        let (rows, targets, fresh_labels) = labels(fresh, replay_group, tokens);
        let (mut loss, mut losses, nats) =
            self.entropy(&out, &rows, &targets, fresh_labels, shares(fresh, replay_group))?;
        if let Some((group, slow, hidden)) = &replayed
            && objective.gamma != 0.0
        {
            let (slow, _) = self.factors(Some(slow), self.own(), false)?;
            let fast: Vec<Tensor> = compared
                .iter()
                .map(|h| h.narrow(0, fresh_blocks, group.blocks.len()))
                .collect::<Result<_, _>>()?;
            let embedding = self.embedding(&fast, hidden, &slow, group, objective)?;
            losses.embedding = Some(embedding.to_scalar()?);
            loss = (loss + (embedding * f64::from(objective.gamma))?)?;
        }
        losses.total = loss.to_scalar()?;
        let of_blocks = fresh.means(&nats[..fresh_labels]);
        Ok(Gradient { losses, of_blocks, values: self.collect(&loss, &vars, fast.values.len())? })
    }

    /// Cross-entropy of both groups, each its own mean, their sum by `shares`, and every label's nats.
    fn entropy(
        &self,
        out: &Tensor,
        rows: &[u32],
        targets: &[u32],
        fresh_labels: usize,
        [new, old]: [f32; 2],
    ) -> Result<(Tensor, Losses, Vec<f32>), HeadError> {
        let (b, t, d) = out.dims3()?;
        let mut losses =
            Losses { fresh: 0.0, replay: None, embedding: None, anchor: None, total: 0.0 };
        if targets.is_empty() {
            return Ok(((out.sum_all()? * 0.0)?, losses, Vec::new()));
        }
        let rows = Tensor::from_slice(rows, rows.len(), &self.device)?;
        let labelled = out.reshape((b * t, d))?.index_select(&rows, 0)?;
        let nats = entropy::nats(&self.normed(&labelled)?, &self.lm_head.tensor()?, targets)?;
        let replay_labels = targets.len() - fresh_labels;
        let mean = |from: usize, labels: usize| match labels {
            0 => nats.sum_all()? * 0.0,
            _ => nats.narrow(0, from, labels)?.sum_all()? / labels as f64,
        };
        let fresh = mean(0, fresh_labels)?;
        losses.fresh = fresh.to_scalar()?;
        let of_labels = nats.to_vec1()?;
        if old == 0.0 {
            return Ok((fresh, losses, of_labels));
        }
        let replay = mean(fresh_labels, replay_labels)?;
        losses.replay = Some(replay.to_scalar()?);
        let sum = ((fresh * f64::from(new))? + (replay * f64::from(old))?)?;
        Ok((sum, losses, of_labels))
    }

    /// Distance between the fast hidden states and slow's on the same replayed blocks.
    fn embedding(
        &self,
        fast: &[Tensor],
        hidden: &Tensor,
        slow: &Factors,
        group: &Group<'_>,
        objective: &Objective,
    ) -> Result<Tensor, HeadError> {
        let (b, t, d) = hidden.dims3()?;
        let mut mask = vec![0f32; b * t];
        for (block, mask) in group.blocks.iter().zip(mask.chunks_exact_mut(t)) {
            mask[..block.tokens.len()].fill(1.0);
        }
        let positions: f32 = mask.iter().sum();
        let mask = Tensor::from_vec(mask, (b, t, 1), &self.device)?;
        let last = self.layers.len().saturating_sub(1);
        let mut compared = fast.iter();
        let mut total: Option<Tensor> = None;
        self.forward(hidden, slow, |index, h| {
            if objective.layers == EmbeddingLayers::Last && index != last {
                return Ok(());
            }
            let Some(fast) = compared.next() else { return Ok(()) };
            let (h, d) = (h.detach(), d as f64);
            let squares = match objective.distance {
                Distance::OneSided => (&h - fast)?.relu()?.sqr()?,
                Distance::Relative => {
                    let length = (h.sqr()?.sum_keepdim(2)? + f64::from(LENGTH_MIN))?;
                    (&h - fast)?.sqr()?.broadcast_div(&length)?.affine(d, 0.0)?
                }
            };
            let squared = squares.broadcast_mul(&mask)?.sum_all()?;
            total = Some(match total.take() {
                Some(total) => (total + squared)?,
                None => squared,
            });
            Ok(())
        })?;
        let count = f64::from(positions) * d as f64 * fast.len() as f64;
        let total = match total {
            Some(total) => total,
            None => Tensor::zeros((), candle_core::DType::F32, &self.device)?,
        };
        Ok((total / count.max(1.0))?)
    }

    /// The gradient of every layer's factors, side by side as in the adapter.
    fn collect(
        &self,
        loss: &Tensor,
        vars: &[candle_core::Var],
        len: usize,
    ) -> Result<Vec<f32>, HeadError> {
        let gradients = loss.backward()?;
        let mut flat = Vec::with_capacity(len);
        for var in vars {
            match gradients.get(var) {
                Some(gradient) => flat.extend(gradient.to_vec1::<f32>()?),
                None => flat.resize(flat.len() + var.elem_count(), 0.0),
            }
        }
        Ok(flat)
    }

    pub(super) fn check_length(&self, tokens: usize) -> Result<(), HeadError> {
        let max = self.rotary.positions;
        if tokens > max { Err(HeadError::Length { got: tokens, max }) } else { Ok(()) }
    }

    /// The residual stream above the layers, `[B * T, D]`; no gradient.
    fn outputs(&self, adapter: Option<&Adapter>, group: &Group<'_>) -> Result<Tensor, HeadError> {
        let (b, t, d) = group.hidden.dim();
        let out = match self.kernels {
            Kernels::Fused => {
                adapter.map_or(Ok(()), |adapter| self.check(adapter))?;
                let out = self.stream(adapter, group, t, |_, _| ())?;
                Tensor::from_vec(out, (b * t, d), &self.device)?
            }
            Kernels::Reference => {
                let (factors, _) = self.factors(adapter, self.own(), false)?;
                let x = tensor3(group.hidden, &self.device)?;
                self.forward(&x, &factors, |_, _| Ok(()))?.reshape((b * t, d))?
            }
        };
        Ok(out)
    }

    /// The sum of nats over the labels of each block, `[B]`; no gradient.
    ///
    /// # Errors
    /// As [`Head::gradient`].
    pub fn nats(
        &self,
        adapter: Option<&Adapter>,
        group: &Group<'_>,
    ) -> Result<Vec<f64>, HeadError> {
        let tokens = group.hidden.dim().1;
        self.check_length(tokens)?;
        let (rows, targets) = group.predictions(0, tokens);
        let mut sums = vec![0f64; group.blocks.len()];
        if targets.is_empty() {
            return Ok(sums);
        }
        let nats = match self.kernels {
            Kernels::Fused => {
                adapter.map_or(Ok(()), |adapter| self.check(adapter))?;
                self.nats_by_hand(adapter, group, &rows, &targets)?
            }
            Kernels::Reference => {
                let rows = Tensor::from_slice(&rows, rows.len(), &self.device)?;
                let out = self.outputs(adapter, group)?.index_select(&rows, 0)?;
                entropy::nats(&self.normed(&out)?, &self.lm_head.tensor()?, &targets)?.to_vec1()?
            }
        };
        for (row, nats) in rows.iter().zip(nats) {
            sums[*row as usize / tokens] += f64::from(nats);
        }
        Ok(sums)
    }

    /// Logits of every position, `[B, T, V]`: for proofs and small inputs.
    ///
    /// # Errors
    /// As [`Head::gradient`].
    pub fn logits(
        &self,
        adapter: Option<&Adapter>,
        hidden: &Array3<f32>,
    ) -> Result<Array3<f32>, HeadError> {
        let (b, t, _) = hidden.dim();
        self.check_length(t)?;
        let normed = self.normed(&self.outputs(adapter, &Group { blocks: &[], hidden })?)?;
        let logits = normed.matmul(&self.lm_head.tensor()?)?.flatten_all()?.to_vec1()?;
        Array3::from_shape_vec((b, t, self.config.vocab), logits)
            .map_err(|error| candle_core::Error::Msg(error.to_string()).into())
    }
}
