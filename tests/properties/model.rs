//! What reaches what: causality, independence of rows, attention, symmetry under renumbering.

use dif_sr::config::{AttributeKind, Fusion, Pooling};
use proptest::prelude::*;
use tch::{Kind, Tensor, no_grad};

use super::sample::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn but_for_gate_and_concat_a_later_item_never_changes_an_earlier_output(
        shape in masked(), from in 1..6_i64,
    ) {
        let (model, batch) = (shape.model(), shape.batch());
        let from = from.min(shape.length - 1);
        let changed = batch.item_seq.copy();
        // From here on any item, padding included.
        let later = shape.random().ids(&[shape.rows, shape.length - from], 0, shape.n_items);
        changed.narrow(1, from, shape.length - from).copy_(&later);
        let before = model.forward(&batch.item_seq, &batch.item_seq_len, false);
        let after = model.forward(&changed, &batch.item_seq_len, false);
        for (k, (before, after)) in before.layers.iter().zip(&after.layers).enumerate() {
            let (before, after) = (before.output.narrow(1, 0, from), after.output.narrow(1, 0, from));
            equal(&format!("layer {k}"), &after, &before)?;
        }
    }

    /// Known behaviour of the reference: both fuse before the mask, over the whole row of scores.
    #[test]
    fn under_gate_and_concat_a_later_item_changes_earlier_outputs(
        mut shape in shapes(&[Fusion::Gate, Fusion::Concat], &SUM_OR_MEAN),
    ) {
        // The first position sees one key, whatever its score.
        (shape.length, shape.heads, shape.rows) = (5, 3, 4);
        let (model, batch) = (shape.model(), shape.batch());
        open_fusion(&model);
        let items = shape.random().ids(&[shape.rows, shape.length], 1, shape.n_items);
        let lengths = batch.item_seq_len.full_like(shape.length);
        let changed = items.copy();
        let last = changed.select(1, -1);
        last.shallow_clone().copy_(&(last.remainder(shape.n_items - 1) + 1)); // another item
        let output = |items| model.forward(items, &lengths, false).layers.remove(0).attention.probs;
        let moved = distance(&output(&items).narrow(2, 1, 3), &output(&changed).narrow(2, 1, 3));
        prop_assert!(moved > 1e-9, "moved by {moved:e}");
    }

    #[test]
    fn scores_of_a_sequence_do_not_depend_on_the_other_rows(shape in any_model()) {
        let (model, batch) = (shape.model(), shape.batch());
        let scores = |items: &Tensor, lengths: &Tensor| model.scores(&model.forward(items, lengths, false).seq_output);
        let together = scores(&batch.item_seq, &batch.item_seq_len);
        for row in 0..shape.rows {
            let alone = scores(&batch.item_seq.narrow(0, row, 1), &batch.item_seq_len.narrow(0, row, 1));
            equal(&format!("row {row}"), &alone, &together.narrow(0, row, 1))?;
        }
    }

    #[test]
    fn attention_rows_sum_to_one(shape in shapes(&FUSIONS, &[Pooling::Sum, Pooling::Mean, Pooling::Max])) {
        let (model, batch) = (shape.model(), shape.batch());
        for layer in model.forward(&batch.item_seq, &batch.item_seq_len, false).layers {
            let sums = layer.attention.probs.sum_dim_intlist(-1, false, None::<Kind>);
            equal("sums", &sums, &sums.ones_like())?;
        }
    }

    #[test]
    fn attention_gives_padded_and_future_keys_nothing(shape in any_model()) {
        let (model, batch) = (shape.model(), shape.batch());
        for layer in model.forward(&batch.item_seq, &batch.item_seq_len, false).layers {
            for (row, &len) in ids(&batch.item_seq_len).iter().enumerate() {
                let probs = layer.attention.probs.get(row as i64);
                for query in 0..shape.length {
                    let visible = len.min(query + 1);
                    let hidden = probs.select(1, query).narrow(1, visible, shape.length - visible);
                    prop_assert!(values(&hidden).iter().all(|&p| p == 0.0), "row {row}, query {query}: {hidden}");
                }
            }
        }
    }

    /// Known behaviour of the reference: an item without tokens stands at −1e9, and its scores overrule the mask.
    #[test]
    fn under_max_pooling_padded_keys_receive_attention(mut shape in shapes(&[Fusion::Sum], &[Pooling::Max])) {
        shape.attributes = vec![AttributeShape { kind: AttributeKind::TokenSeq, vocab: 5, head_size: 2, width: 3 }];
        let (model, batch) = (shape.model(), shape.batch());
        // Every query is −1 and keys are the attributes themselves, so that padding scores near +1e9 for every query.
        silence(&model, &["query_layers", "key_layers"]);
        no_grad(|| {
            let layer = |name: &str| parameter(&model, &format!("trm_encoder.layer.0.multi_head_attention.{name}"));
            let _ = layer("query_layers.0.bias").fill_(-1.0);
            let _ = layer("key_layers.0.weight").fill_diagonal_(1.0, false);
        });
        let probs = model.forward(&batch.item_seq, &batch.item_seq_len, false).layers.remove(0).attention.probs;
        for (row, len) in ids(&batch.item_seq_len).into_iter().enumerate().filter(|&(_, len)| len < shape.length) {
            let padded = probs.get(row as i64).narrow(2, len, shape.length - len);
            let received = padded.sum_dim_intlist(-1, false, None::<Kind>);
            prop_assert!(values(&received).iter().all(|&p| p > 0.99), "row {row}: {received}");
        }
    }

    #[test]
    fn renumbering_items_with_their_attributes_renumbers_scores(shape in any_model()) {
        let (model, renumbered, batch) = (shape.model(), shape.model(), shape.batch());
        // new[i] is the number that item i gets; 0 stays.
        let mut new: Vec<i64> = (0..shape.n_items).collect();
        let mut random = shape.random();
        (2..shape.n_items).for_each(|i| new.swap(i as usize, random.between(1, i + 1) as usize));
        let new = Tensor::from_slice(&new);
        let old = new.argsort(0, false);
        no_grad(|| {
            let mut embedding = parameter(&renumbered, "item_embedding.weight");
            embedding.copy_(&embedding.index_select(0, &old));
            for feature in renumbered.features() {
                feature.ids.shallow_clone().copy_(&feature.ids.index_select(0, &old));
            }
        });
        let items = new.index_select(0, &batch.item_seq.flatten(0, -1)).view_as(&batch.item_seq);
        let lengths = &batch.item_seq_len;
        let before = model.scores(&model.forward(&batch.item_seq, lengths, false).seq_output);
        let after = renumbered.scores(&renumbered.forward(&items, lengths, false).seq_output);
        equal("scores", &after.index_select(1, &new), &before)?;
    }

    #[test]
    fn the_position_streams_scores_are_the_same_for_all_rows(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        let (model, batch) = (shape.model(), shape.batch());
        silence(&model, &["query", "key", "query_layers", "key_layers"]);
        for layer in model.forward(&batch.item_seq, &batch.item_seq_len, false).layers {
            let fused = layer.attention.fused_scores;
            prop_assert!(fused.abs().max().double_value(&[]) > 1e-9, "the position stream has scores at all");
            equal("fused scores", &fused, &fused.narrow(0, 0, 1).expand_as(&fused))?;
        }
    }

    #[test]
    fn a_sequence_is_the_last_layers_output_at_its_last_item(shape in any_model()) {
        let (model, batch) = (shape.model(), shape.batch());
        let encoded = model.forward(&batch.item_seq, &batch.item_seq_len, false);
        let output = &encoded.layers[shape.layers as usize - 1].output;
        for (row, len) in ids(&batch.item_seq_len).into_iter().enumerate() {
            let last = output.get(row as i64).get(len - 1);
            prop_assert!(encoded.seq_output.get(row as i64).equal(&last), "row {row}");
        }
    }

    #[test]
    fn values_come_from_items_alone(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        // A sequence of one item attends to it with weight 1, so that no score can matter, and position and attributes
        // have no other way in.
        let (model, batch) = (shape.model(), shape.batch());
        let (items, lengths) = (batch.item_seq.copy(), batch.item_seq_len.ones_like());
        let _ = items.narrow(1, 1, shape.length - 1).fill_(0);
        let before = model.forward(&items, &lengths, false).seq_output;
        no_grad(|| {
            let _ = parameter(&model, "position_embedding.weight").g_mul_scalar_(-2.0);
            model.named_tables().iter_mut().for_each(|(_, table)| _ = table.g_mul_scalar_(-2.0));
        });
        equal("seq_output", &model.forward(&items, &lengths, false).seq_output, &before)?;
    }
}
