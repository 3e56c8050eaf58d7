//! Answers, as they are written to a file or sent.

use serde::Serialize;

use super::fields::Fields;
use super::request::{Name, Request};
use crate::Result;
use crate::run::{Query, Recommendation, Service};

/// The answer to a request.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// What the requester wrote.
    #[serde(flatten)]
    pub fields: Fields,
    /// Items the request names that there are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Name>,
    /// What is recommended, or why nothing is.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What comes of a request.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Recommendations.
    Items {
        /// How they come about where there is nothing to go by.
        #[serde(flatten)]
        fallback: Option<Fallback>,
        /// The items, best first.
        items: Vec<Recommendation>,
        /// Whether there were fewer than were asked for.
        #[serde(skip)]
        is_short: bool,
    },
    /// Something is wrong with the request.
    Error {
        /// The number of its line, where it has one.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<usize>,
        /// What is wrong.
        error: String,
    },
}

/// How recommendations come about that do not come from the model.
#[derive(Debug, Serialize)]
pub struct Fallback {
    fallback: &'static str,
    /// Why the model was not asked.
    pub reason: String,
}

/// The answers to `requests`, in their order.
///
/// # Errors
/// If the model itself fails.
pub fn answer(service: &Service, requests: Vec<Request>) -> Result<Vec<Answer>> {
    let (mut forms, mut queries): (Vec<_>, Vec<Query>) = (Vec::new(), Vec::new());
    for Request { line, fields, unknown, reason, query } in requests {
        let asked = query.map(|query| {
            let top = query.options.top;
            queries.push(query);
            top
        });
        forms.push((line, fields, unknown, reason, asked));
    }
    let mut answers = service.answer(&queries)?.into_iter();
    let answer = |(line, fields, unknown, reason, asked): (_, _, _, Option<String>, Result<_>)| {
        // Each query that could be read has an answer of its own.
        let found = asked.and_then(|top| {
            let items = answers.next().unwrap_or_else(|| Ok(Vec::new()))?;
            Ok((items.len() < top, items))
        });
        let outcome = match found {
            Ok((is_short, items)) => {
                let fallback = reason.map(|reason| Fallback { fallback: "popularity", reason });
                Outcome::Items { fallback, items, is_short }
            }
            Err(e) => Outcome::Error { line, error: e.to_string() },
        };
        Answer { fields, unknown, outcome }
    };
    Ok(forms.into_iter().map(answer).collect())
}
