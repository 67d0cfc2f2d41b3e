//! Fused attention: scores, fusion, mask, softmax, dropout and the sum of values in one pass over each sequence.
//!
//! # The equations
//! In a head of width d, with queries q, keys k and values v of the items, and the scores s_m of attributes and
//! positions, which do not depend on the item stream:
//!
//! * fusedᵢⱼ = fuse(s₁, …, qᵢ · kⱼ, s_position)ᵢⱼ ([`fusion`]), and scores Sᵢⱼ = fusedᵢⱼ / √d + maskᵢⱼ, the mask being 0
//!   or −10000 ([`mask`]);
//! * probabilities P = softmax(S), dropped P̃ = P ⊙ D with D 0 or the dropout's scale;
//! * context cᵢ = Σⱼ P̃ᵢⱼ vⱼ.
//!
//! Backward, from dc:
//!
//! * dP̃ᵢⱼ = dcᵢ · vⱼ and dvⱼ = Σᵢ P̃ᵢⱼ dcᵢ; dP = dP̃ ⊙ D;
//! * dfusedᵢⱼ = Pᵢⱼ (dPᵢⱼ − Σₗ Pᵢₗ dPᵢₗ) / √d, and from it, through the fusion, ds_m of every map;
//! * dqᵢ = Σⱼ dsᵢⱼ kⱼ and dkⱼ = Σᵢ dsᵢⱼ qᵢ with ds the gradient of the item's map; the others go to their tables or
//!   projections.
//!
//! In the last layer there is one query a sequence. Key and value layers are absorbed ([`absorbed`]): the query becomes
//! q̃ = W_Kᵀ q, the keys are the rows x, scores get q · b_K added, and Σⱼ P̃ⱼ xⱼ with Σⱼ P̃ⱼ is what the value layer is
//! applied to.
//!
//! # Lanes
//! Scores are computed for all queries and heads of a sequence side by side, and a map is `[keys, lanes]`: lane
//! q · heads + n is the q-th query in head n. That query is at position q, or q + 1 where the first position is separate.
//!
//! # Which case goes where
//! | case | in [`forward`](mod@forward) and [`backward`](mod@backward) |
//! | --- | --- |
//! | a separate first position, whose only key is itself | `first_positions`, back in `first_position`: the context is the value |
//! | a sequence of one key, which has the whole probability | `single_key`: no scores |
//! | every row a query ([`Queries::All`](geometry::Queries)) | `item_scores` to `weighted_values`, back to `keys` |
//! | one absorbed query ([`Queries::Last`](geometry::Queries)) | the same, with `rows` for `values` and `keys` |
//! | a side stream with a score table, or without | [`SideScores`](side_scores::SideScores) |
//! | padded keys | scored, since they enter the fusion, and left out of the sums of values, where they have no probability |

pub mod absorbed;
pub mod backward;
pub mod forward;
pub mod fusion;
pub mod geometry;
pub mod inputs;
pub mod mask;
pub mod score_table;
pub mod side_scores;
