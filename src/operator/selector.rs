//! Whether a policy's selector is for a pod's labels, as Kubernetes' label selectors say.

use std::collections::BTreeMap;

use crate::api::v1alpha1::{Operator, Requirement, Selector};

/// Whether all of it holds; an empty selector is for every pod.
pub fn matches(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    let Selector { match_labels, match_expressions } = selector;
    match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && match_expressions.iter().flatten().all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &Requirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let named = || value.is_some_and(|value| requirement.values.iter().flatten().any(|wanted| wanted == value));
    match requirement.operator {
        Operator::In => named(),
        Operator::NotIn => !named(),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn holds(yaml: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        matches(&serde_yaml::from_str(yaml).unwrap(), &labels)
    }

    #[test]
    fn as_kubernetes_has_it() {
        let app = [("app", "orders")];
        assert!(holds("{}", &[]));
        assert!(holds("matchLabels: {app: orders}", &app));
        assert!(!holds("matchLabels: {app: orders, tier: web}", &app));
        let expression = |operator: &str, values: &str| {
            format!("matchExpressions: [{{key: app, operator: {operator}, values: [{values}]}}]")
        };
        assert!(holds(&expression("In", "orders, bills"), &app) && !holds(&expression("In", "bills"), &app));
        assert!(!holds(&expression("In", "orders"), &[]));
        assert!(holds(&expression("NotIn", "bills"), &app) && holds(&expression("NotIn", "orders"), &[]));
        assert!(!holds(&expression("NotIn", "orders"), &app));
        assert!(holds(&expression("Exists", ""), &app) && !holds(&expression("Exists", ""), &[]));
        assert!(!holds(&expression("DoesNotExist", ""), &app) && holds(&expression("DoesNotExist", ""), &[]));
    }
}
