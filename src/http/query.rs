//! The part of CQL that clients use (http contract 1.6): all records, or members that must equal values.

use actix_web::HttpRequest;

use super::{ApiError, paging::parameter};

/// All that clients ask of conditions and limits today is all records, sorted by name or not.
pub(super) fn all_records(request: &HttpRequest) -> Result<(), ApiError> {
    let query = parameter(request, "query")?.unwrap_or_default();
    let words: Vec<String> = query.split_whitespace().map(str::to_ascii_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["cql.allrecords=1"] | ["sortby", "name"] | ["cql.allrecords=1", "sortby", "name"] => {
            Ok(())
        }
        _ => Err(ApiError::bad_request(
            "query must be cql.allRecords=1, alone or with sortby name: other CQL is not supported",
        )),
    }
}

/// Members and the values that they must equal: `reason==bad_field and partition==3`, or all records.
/// `None` where there is no query.
pub(super) fn equalities(
    request: &HttpRequest,
    members: &[&'static str],
) -> Result<Option<Vec<(&'static str, String)>>, ApiError> {
    let Some(query) = parameter(request, "query")?.filter(|query| !query.trim().is_empty()) else {
        return Ok(None);
    };
    let told = || {
        let members = members.join(", ");
        ApiError::bad_request(format!(
            "query must be cql.allRecords=1, or member==value joined by and, where a member is one of \
             {members} and a value with a blank stands in double quotes"
        ))
    };
    if query.split_whitespace().collect::<String>().eq_ignore_ascii_case("cql.allRecords=1") {
        return Ok(Some(Vec::new()));
    }
    let mut found = Vec::new();
    let mut rest = query.trim();
    loop {
        let (name, after) = rest.split_once('=').ok_or_else(told)?;
        let member = members.iter().find(|member| **member == name.trim()).ok_or_else(told)?;
        let after = after.strip_prefix('=').unwrap_or(after).trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(told)?,
            None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
        };
        if value.is_empty() {
            return Err(told());
        }
        found.push((*member, value.to_owned()));
        rest = after.trim_start();
        if rest.is_empty() {
            return Ok(Some(found));
        }
        let joined = rest
            .split_once(char::is_whitespace)
            .filter(|(word, _)| word.eq_ignore_ascii_case("and"));
        rest = joined.ok_or_else(told)?.1.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn read(query: &str) -> Option<Vec<(&'static str, String)>> {
        let encoded = query.replace(' ', "+").replace('"', "%22").replace('=', "%3D");
        let request = TestRequest::with_uri(&format!("/?query={encoded}")).to_http_request();
        equalities(&request, &["reason", "topic"]).ok().flatten()
    }

    #[test]
    fn members_equal_values_or_the_error_says_which_there_are() {
        let pair = |name, value: &str| (name, value.to_owned());
        assert_eq!(read("cql.allRecords = 1"), Some(vec![]));
        assert_eq!(read("reason==bad_field"), Some(vec![pair("reason", "bad_field")]));
        assert_eq!(
            read("reason=bad_field AND topic == \"a and b\""),
            Some(vec![pair("reason", "bad_field"), pair("topic", "a and b")])
        );
        for bad in
            ["reason", "reason==", "other==1", "reason==a or topic==b", "reason==a and", "\""]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
