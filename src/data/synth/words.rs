//! The words of the synthetic shop: departments, categories, brands. All of it is invented here;
//! the brands do not exist.

/// Categories whose products come in the same variants and with the same features.
pub(super) struct Department {
    /// As the shop files it.
    pub(super) name: &'static str,
    /// What a buyer chooses by: a skin type, a hair type, a shade, a scent.
    pub(super) variants: [&'static str; 5],
    /// How a title tells the variant.
    pub(super) variant_in_title: &'static str,
    /// How a description tells the variant.
    pub(super) variant_in_description: &'static str,
    /// An ingredient or a finish.
    pub(super) features: [&'static str; 8],
    /// How a description tells the feature.
    pub(super) feature_in_description: &'static str,
    /// Adjectives that open a description.
    pub(super) textures: [&'static str; 5],
}

/// A kind of product.
pub(super) struct Category {
    /// Index into [`DEPARTMENTS`].
    pub(super) department: usize,
    /// As the shop files it.
    pub(super) name: &'static str,
    /// What one product is called.
    pub(super) nouns: [&'static str; 2],
    /// What it does.
    pub(super) benefits: [&'static str; 4],
    /// What it is sold in.
    pub(super) sizes: [&'static str; 3],
    /// What people buy after it, as indices into [`CATEGORIES`]: the next step of the routine,
    /// then a related one.
    pub(super) followers: [usize; 2],
}

pub(super) const BRANDS: [&str; 12] = [
    "Aldervane",
    "Brumelle",
    "Corvique",
    "Dunmeadow",
    "Elowisse",
    "Fennbrook",
    "Gildrane",
    "Halcyra",
    "Isolbay",
    "Jorvane",
    "Kestrine",
    "Lumarel",
];

/// Words of a product line, between brand and feature.
pub(super) const LINES: [&str; 10] = [
    "Daily",
    "Pure",
    "Calm",
    "Botanic",
    "Velvet",
    "Radiant",
    "Essential",
    "Gentle",
    "Studio",
    "Night",
];

pub(super) const DEPARTMENTS: [Department; 4] = [
    Department {
        name: "Skin Care",
        variants: ["oily", "dry", "sensitive", "combination", "mature"],
        variant_in_title: "for {} Skin",
        variant_in_description: "suits {} skin",
        features: [
            "niacinamide",
            "hyaluronic acid",
            "vitamin C",
            "green tea",
            "ceramides",
            "aloe vera",
            "salicylic acid",
            "squalane",
        ],
        feature_in_description: "with {}",
        textures: ["light", "silky", "fragrance-free", "fast-absorbing", "rich"],
    },
    Department {
        name: "Hair Care",
        variants: ["curly", "fine", "color-treated", "damaged", "frizzy"],
        variant_in_title: "for {} Hair",
        variant_in_description: "made for {} hair",
        features: [
            "argan oil",
            "keratin",
            "biotin",
            "coconut milk",
            "rosemary",
            "silk protein",
            "avocado",
            "tea tree",
        ],
        feature_in_description: "with {}",
        textures: ["sulfate-free", "creamy", "salon-style", "lightweight", "nourishing"],
    },
    Department {
        name: "Makeup",
        variants: ["rose", "coral", "plum", "nude", "berry"],
        variant_in_title: "in {}",
        variant_in_description: "a {} shade",
        features: ["matte", "satin", "shimmer", "glossy", "dewy", "metallic", "sheer", "creamy"],
        feature_in_description: "in a {} finish",
        textures: ["long-wearing", "buildable", "highly pigmented", "vegan", "smooth"],
    },
    Department {
        name: "Bath & Body",
        variants: ["lavender", "citrus", "coconut", "vanilla", "sandalwood"],
        variant_in_title: "with {} Scent",
        variant_in_description: "smells of {}",
        features: [
            "shea butter",
            "olive oil",
            "oat milk",
            "honey",
            "sea salt",
            "jojoba",
            "glycerin",
            "cocoa butter",
        ],
        feature_in_description: "with {}",
        textures: ["soft", "thick", "foaming", "plant-based", "everyday"],
    },
];

pub(super) const CATEGORIES: [Category; 15] = [
    Category {
        department: 0,
        name: "Cleansers",
        nouns: ["cleanser", "face wash"],
        benefits: [
            "removes dirt and makeup",
            "clears clogged pores",
            "washes without tightness",
            "lifts away daily grime",
        ],
        sizes: ["150 ml", "200 ml", "100 ml"],
        followers: [1, 3],
    },
    Category {
        department: 0,
        name: "Toners",
        nouns: ["toner", "facial mist"],
        benefits: [
            "balances after washing",
            "refines visible pores",
            "refreshes tired skin",
            "prepares for a serum",
        ],
        sizes: ["200 ml", "250 ml", "120 ml"],
        followers: [2, 0],
    },
    Category {
        department: 0,
        name: "Serums",
        nouns: ["serum", "ampoule"],
        benefits: [
            "evens out skin tone",
            "plumps fine lines",
            "fades dark spots",
            "brightens dull areas",
        ],
        sizes: ["30 ml", "50 ml", "15 ml"],
        followers: [3, 4],
    },
    Category {
        department: 0,
        name: "Moisturizers",
        nouns: ["moisturizer", "face cream"],
        benefits: [
            "hydrates for a full day",
            "repairs the moisture barrier",
            "smooths rough patches",
            "softens overnight",
        ],
        sizes: ["50 ml", "75 ml", "100 ml"],
        followers: [4, 2],
    },
    Category {
        department: 0,
        name: "Sunscreens",
        nouns: ["sunscreen", "sun fluid"],
        benefits: [
            "protects from UVA and UVB",
            "leaves no white cast",
            "guards against sun spots",
            "sits well under makeup",
        ],
        sizes: ["SPF 30", "SPF 50", "SPF 40"],
        followers: [0, 13],
    },
    Category {
        department: 1,
        name: "Shampoos",
        nouns: ["shampoo", "shampoo bar"],
        benefits: [
            "cleans roots to tips",
            "removes product buildup",
            "adds body and bounce",
            "soothes an itchy scalp",
        ],
        sizes: ["300 ml", "500 ml", "250 ml"],
        followers: [6, 7],
    },
    Category {
        department: 1,
        name: "Conditioners",
        nouns: ["conditioner", "leave-in conditioner"],
        benefits: [
            "detangles in seconds",
            "seals split ends",
            "restores lost softness",
            "keeps frizz down",
        ],
        sizes: ["300 ml", "500 ml", "200 ml"],
        followers: [7, 5],
    },
    Category {
        department: 1,
        name: "Hair Oils",
        nouns: ["hair oil", "hair elixir"],
        benefits: [
            "gives a mirror shine",
            "protects from heat styling",
            "tames flyaway strands",
            "strengthens brittle lengths",
        ],
        sizes: ["50 ml", "100 ml", "75 ml"],
        followers: [5, 12],
    },
    Category {
        department: 2,
        name: "Lipsticks",
        nouns: ["lipstick", "lip stain"],
        benefits: [
            "stays on through dinner",
            "does not dry the lips",
            "glides on in one coat",
            "keeps its color all day",
        ],
        sizes: ["4 g", "3 g", "5 g"],
        followers: [9, 11],
    },
    Category {
        department: 2,
        name: "Blushes",
        nouns: ["blush", "cheek tint"],
        benefits: [
            "blends with a fingertip",
            "warms up pale cheeks",
            "adds a healthy flush",
            "never looks cakey",
        ],
        sizes: ["6 g", "8 g", "5 g"],
        followers: [10, 8],
    },
    Category {
        department: 2,
        name: "Eyeshadows",
        nouns: ["eyeshadow", "eyeshadow palette"],
        benefits: [
            "does not crease",
            "opens up the eyes",
            "layers from day to night",
            "blends without fallout",
        ],
        sizes: ["2 g", "9 g", "12 g"],
        followers: [11, 9],
    },
    Category {
        department: 2,
        name: "Nail Polishes",
        nouns: ["nail polish", "nail lacquer"],
        benefits: [
            "dries in a minute",
            "resists chips for a week",
            "covers in two coats",
            "shines like gel",
        ],
        sizes: ["10 ml", "12 ml", "8 ml"],
        followers: [8, 14],
    },
    Category {
        department: 3,
        name: "Shower Gels",
        nouns: ["shower gel", "body wash"],
        benefits: [
            "wakes up the senses",
            "leaves no residue",
            "cares while it cleans",
            "turns into a soft foam",
        ],
        sizes: ["250 ml", "400 ml", "500 ml"],
        followers: [13, 5],
    },
    Category {
        department: 3,
        name: "Body Lotions",
        nouns: ["body lotion", "body butter"],
        benefits: [
            "sinks in at once",
            "softens elbows and knees",
            "soothes after shaving",
            "locks in moisture",
        ],
        sizes: ["200 ml", "250 ml", "400 ml"],
        followers: [14, 12],
    },
    Category {
        department: 3,
        name: "Hand Creams",
        nouns: ["hand cream", "hand balm"],
        benefits: [
            "heals chapped hands",
            "is never greasy",
            "cares for nails too",
            "fits in a handbag",
        ],
        sizes: ["50 ml", "75 ml", "30 ml"],
        followers: [12, 11],
    },
];
