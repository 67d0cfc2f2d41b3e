//! Known data sets and how to get them: what they are called, where they come from, what their files look like.
//!
//! The Amazon data sets are those of McAuley et al., *Image-based recommendations on styles and substitutes* (SIGIR 2015):
//! reviews and product metadata up to July 2014, in the 5-core subset, in which every user and every item has five reviews.

use crate::{Error, Result};

/// A data set that can be fetched.
#[derive(Debug)]
pub struct Source {
    /// As `dif-sr data fetch` takes it.
    pub name: &'static str,
    /// A shorter name.
    pub short: &'static str,
    /// RecBole's name, which is also that of the folder and of the files.
    pub dataset: &'static str,
    /// The address that the archives' names are appended to.
    pub base: &'static str,
    /// Reviews: JSON lines, gzip.
    pub reviews: &'static str,
    /// Products: lines of Python dictionaries, gzip.
    pub metadata: &'static str,
    /// The columns of the `.item` file behind `item_id`, in RecSysDatasets' order.
    pub columns: [ItemColumn; 6],
}

impl Source {
    /// The names of the data set's files: interactions, items.
    pub fn files(&self) -> [String; 2] {
        ["inter", "item"].map(|suffix| format!("{}.{suffix}", self.dataset))
    }
}

/// A column of the `.item` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemColumn {
    /// The product's name.
    Title,
    /// The first key of `salesRank`.
    SalesType,
    /// Its value.
    SalesRank,
    /// The names of the product's first path of categories, in its order.
    Categories,
    /// US dollars.
    Price,
    /// The maker's name.
    Brand,
}

impl ItemColumn {
    /// The field of the header.
    pub fn header(self) -> &'static str {
        match self {
            Self::Title => "title:token",
            Self::SalesType => "sales_type:token",
            Self::SalesRank => "sales_rank:float",
            Self::Categories => "categories:token_seq",
            Self::Price => "price:float",
            Self::Brand => "brand:token",
        }
    }
}

/// Where the Stanford Network Analysis Project serves the categories of 2014.
const SNAP: &str = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/";

use ItemColumn::{Brand, Categories, Price, SalesRank, SalesType, Title};

/// All data sets that can be fetched.
///
/// The order of an `.item` file's columns differs because RecSysDatasets takes the keys of the metadata as they first appear.
pub static SOURCES: [Source; 3] = [
    Source {
        name: "amazon-beauty",
        short: "beauty",
        dataset: "Amazon_Beauty",
        base: SNAP,
        reviews: "reviews_Beauty_5.json.gz",
        metadata: "meta_Beauty.json.gz",
        columns: [Title, SalesType, SalesRank, Categories, Price, Brand],
    },
    Source {
        name: "amazon-toys",
        short: "toys",
        dataset: "Amazon_Toys_and_Games",
        base: SNAP,
        reviews: "reviews_Toys_and_Games_5.json.gz",
        metadata: "meta_Toys_and_Games.json.gz",
        columns: [Title, Price, SalesType, SalesRank, Brand, Categories],
    },
    Source {
        name: "amazon-sports",
        short: "sports",
        dataset: "Amazon_Sports_and_Outdoors",
        base: SNAP,
        reviews: "reviews_Sports_and_Outdoors_5.json.gz",
        metadata: "meta_Sports_and_Outdoors.json.gz",
        columns: [Title, Price, Brand, Categories, SalesType, SalesRank],
    },
];

/// The data set of that name: its own, its short one or RecBole's; case does not matter, nor `-` or `_`.
///
/// ```
/// use dif_sr::fetch::sources::find;
///
/// assert_eq!(find("amazon-beauty")?.dataset, "Amazon_Beauty");
/// assert_eq!(find("Amazon_Toys_and_Games")?.name, "amazon-toys");
/// # Ok::<(), dif_sr::Error>(())
/// ```
///
/// # Errors
/// No such data set; `ml-100k`, which `./setup` fetches.
pub fn find(name: &str) -> Result<&'static Source> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = plain(name);
    let known = |source: &&Source| [source.name, source.short, source.dataset].iter().any(|n| plain(n) == wanted);
    SOURCES.iter().find(known).ok_or_else(|| {
        let names: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
        let error = Error::new(format!("expected one of {}, found `{name}`", names.join(", ")));
        match wanted.as_str() {
            "ml-100k" => error.hint("`./setup` fetches ml-100k into the repository and holds it to setup.sums"),
            _ => error.hint("docs/data.md says where they come from, and how to bring data of your own"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_set_is_found_by_each_of_its_names() {
        for source in &SOURCES {
            for name in [source.name, source.short, source.dataset, &source.dataset.to_lowercase().replace('_', "-")] {
                assert_eq!(find(name).unwrap().dataset, source.dataset, "{name}");
            }
        }
    }
}
