//! What is padding and what stands behind a sequence's true length.

use dif_sr::config::{AttributeKind, Fusion};
use dif_sr::model::Model;
use proptest::prelude::*;
use tch::{Tensor, no_grad};

use super::sample::*;

/// Changes everything that padding is made of: row 0 of the item embedding and of every attribute table, and the
/// attribute tokens of item 0.
fn change_padding(model: &Model, random: &mut Random) {
    no_grad(|| {
        let embedding = parameter(model, "item_embedding.weight");
        let tables = model.named_tables().into_iter().map(|(_, table)| table);
        for table in tables.chain([embedding]) {
            table.get(0).copy_(&random.normal(&table.get(0).size(), 3.0, 2.0));
        }
        for feature in model.features() {
            let padding = feature.ids.get(0);
            padding.shallow_clone().copy_(&random.ids(&padding.size(), 0, feature.vocab));
        }
    });
}

fn seq_output(model: &Model, items: &Tensor, lengths: &Tensor) -> Tensor {
    no_grad(|| model.forward(items, lengths, false).seq_output)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn but_for_gate_and_concat_what_padding_is_made_of_is_irrelevant(shape in masked()) {
        let (model, batch) = (shape.model(), shape.batch());
        let before = seq_output(&model, &batch.item_seq, &batch.item_seq_len);
        change_padding(&model, &mut shape.random());
        equal("seq_output", &seq_output(&model, &batch.item_seq, &batch.item_seq_len), &before)?;
    }

    #[test]
    fn but_for_gate_and_concat_items_behind_the_true_length_are_irrelevant(shape in masked()) {
        let (model, batch) = (shape.model(), shape.batch());
        let items = shape.random().ids(&batch.item_seq.size(), 0, shape.n_items);
        let items = batch.item_seq.where_self(&batch.item_seq.gt(0), &items);
        let before = seq_output(&model, &batch.item_seq, &batch.item_seq_len);
        equal("seq_output", &seq_output(&model, &items, &batch.item_seq_len), &before)?;
    }

    #[test]
    fn but_for_gate_and_concat_positions_behind_the_true_length_are_irrelevant(shape in masked()) {
        let (model, batch) = (shape.model(), shape.batch());
        let positions = parameter(&model, "position_embedding.weight");
        for (row, len) in ids(&batch.item_seq_len).into_iter().enumerate() {
            let row = |column: &Tensor| column.narrow(0, row as i64, 1);
            let (items, lengths) = (row(&batch.item_seq), row(&batch.item_seq_len));
            let before = seq_output(&model, &items, &lengths);
            no_grad(|| _ = positions.narrow(0, len, shape.length - len).g_add_scalar_(1.0));
            equal("seq_output", &seq_output(&model, &items, &lengths), &before)?;
        }
    }

    /// Known behaviour of the reference: fused before the mask, scores of padded keys reach the fusion weights.
    #[test]
    fn under_gate_and_concat_what_padding_is_made_of_changes_outputs(
        mut shape in shapes(&[Fusion::Gate, Fusion::Concat], &SUM_OR_MEAN),
    ) {
        (shape.length, shape.heads, shape.rows) = (5, 3, 6);
        let (model, batch) = (shape.model(), shape.batch());
        open_fusion(&model);
        // Two or three items: a sequence of one attends to it with weight 1, and a full one has no padding.
        let items = shape.random().ids(&batch.item_seq.size(), 1, shape.n_items);
        let lengths = shape.random().ids(&[shape.rows], 2, 4);
        let _ = items.narrow(1, 3, 2).fill_(0);
        let third = items.select(1, 2);
        third.shallow_clone().copy_(&(&third * lengths.eq(3)));
        let probs = || {
            let layers = no_grad(|| model.forward(&items, &lengths, false).layers);
            layers[0].attention.probs.narrow(2, 1, 1)
        };
        let before = probs();
        change_padding(&model, &mut shape.random());
        let moved = distance(&probs(), &before);
        prop_assert!(moved > 1e-9, "moved by {moved:e}");
    }

    #[test]
    fn a_wider_table_of_attribute_ids_changes_nothing(shape in any_model(), more in 1..4_i64) {
        let batch = shape.batch();
        let features = shape.features().into_iter().map(|mut feature| {
            if feature.kind == AttributeKind::TokenSeq {
                feature.ids = feature.ids.constant_pad_nd([0, more]);
            }
            feature
        });
        let model = shape.model();
        let wider = Model::new(&shape.config(), shape.n_items, shape.length, features.collect(), tch::Kind::Double);
        no_grad(|| {
            let pairs = parameters_and_tables(&wider).into_iter().zip(parameters_and_tables(&model));
            pairs.for_each(|((_, mut to), (_, from))| to.copy_(&from));
        });
        let total = |model: &Model| no_grad(|| model.losses(&batch, false).total);
        equal("total loss", &total(&wider), &total(&model))?;
        let (items, lengths) = (&batch.item_seq, &batch.item_seq_len);
        equal("seq_output", &seq_output(&wider, items, lengths), &seq_output(&model, items, lengths))?;
    }
}
