//! The loss over padded batches, and its gradient by autograd: the oracle of `head/cpu/step.rs`.

use super::super::objective::{Distance, Gradient, Group, LENGTH_MIN, Losses, Objective, shares};
use super::{Candle, Factors, HeadError, entropy, tensor3};
use crate::adapter::Adapter;
use crate::settings::EmbeddingLayers;
use candle_core::{Device, Tensor, Var};

/// Rows of both groups' `[B * T]` that predict a label, the labels, and how many are fresh.
fn labels(
    fresh: &Group<'_>,
    replay: Option<&Group<'_>>,
    tokens: usize,
) -> (Vec<u32>, Vec<u32>, usize) {
    let starts = |first: usize| (first..).map(move |index| index * tokens);
    let (mut rows, mut targets) = fresh.predictions(starts(0));
    let fresh_labels = targets.len();
    if let Some(group) = replay {
        let (more_rows, more_targets) = group.predictions(starts(fresh.blocks.len()));
        rows.extend(more_rows);
        targets.extend(more_targets);
    }
    (rows, targets, fresh_labels)
}

/// Hidden states padded to `tokens` rows a sequence.
fn padded(group: &Group<'_>, tokens: usize, device: &Device) -> candle_core::Result<Tensor> {
    tensor3(group.hidden, device)?.pad_with_zeros(1, 0, tokens - group.hidden.dim().1)
}

impl Candle {
    /// [`super::super::Head::anchor`].
    pub(in crate::head) fn anchor(
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
        let kl = (entropy::divergence(&own, &base, &self.lm_head)? / labels as f64)?;
        let loss = (&kl * f64::from(weight))?;
        Ok((kl.to_scalar()?, self.collect(&loss, &vars, fast.values.len())?))
    }

    /// [`super::super::Head::gradient`].
    pub(in crate::head) fn gradient(
        &self,
        fast: &Adapter,
        fresh: &Group<'_>,
        replay: Option<(&Group<'_>, &Adapter)>,
        objective: &Objective,
    ) -> Result<Gradient, HeadError> {
        let tokens = fresh.hidden.dim().1.max(replay.map_or(0, |(group, _)| group.hidden.dim().1));
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
        let nats = entropy::nats(&self.normed(&labelled)?, &self.lm_head, targets)?;
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
    fn collect(&self, loss: &Tensor, vars: &[Var], len: usize) -> Result<Vec<f32>, HeadError> {
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

    /// The nats of every label of a group, no gradient.
    pub(in crate::head) fn nats(
        &self,
        adapter: Option<&Adapter>,
        group: &Group<'_>,
    ) -> Result<Vec<f32>, HeadError> {
        let (rows, targets, _) = labels(group, None, group.hidden.dim().1);
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let rows = Tensor::from_slice(&rows, rows.len(), &self.device)?;
        let out = self.outputs(adapter, group)?.index_select(&rows, 0)?;
        Ok(entropy::nats(&self.normed(&out)?, &self.lm_head, &targets)?.to_vec1()?)
    }
}
