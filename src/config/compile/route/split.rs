//! A route that splits its users between upstreams.

use super::super::Compiler;
use super::Targets;
use crate::balance::SplitBy;
use crate::config::plan::{Action, Branch};
use crate::config::spec::{At, BranchSpec};

const HEAVIEST: u32 = 10_000;

impl Compiler<'_> {
    pub(super) fn split(
        &mut self,
        list: &At<Vec<At<BranchSpec>>>,
        by: Option<&At<SplitBy>>,
        targets: &Targets,
    ) -> Option<Action> {
        let known = targets.upstreams.first().map_or("app", String::as_str);
        if list.get_ref().is_empty() {
            let hint = format!("name an upstream, such as {{ upstream = \"{known}\", weight = 1 }}");
            self.error(list.span(), "`split` is empty", &hint);
            return None;
        }
        let mut branches: Vec<Branch> = Vec::new();
        let mut is_right = true;
        for (at, entry) in list.get_ref().iter().enumerate() {
            let spec = entry.get_ref();
            let weight = self.within(&spec.weight, "weight", &(0..=HEAVIEST));
            let Some(name) = &spec.upstream else {
                self.lack(
                    Some(entry.span()),
                    "this part of the split leads nowhere",
                    &format!("add `upstream = \"{known}\"`"),
                );
                is_right = false;
                continue;
            };
            let earlier = list.get_ref()[..at].iter().filter_map(|entry| entry.get_ref().upstream.as_ref());
            if let Some(first) = earlier.into_iter().find(|earlier| earlier.get_ref() == name.get_ref()) {
                let message = format!("upstream `{name}` is there twice");
                self.twice(
                    name.span(),
                    first.span(),
                    message,
                    "remove one, and give the other the sum of their weights",
                );
            }
            match targets.upstreams.iter().position(|known| known == name.get_ref()) {
                Some(upstream) => branches.push(Branch { upstream, weight }),
                None => {
                    self.unknown(name, "upstream", &targets.upstreams);
                    is_right = false;
                }
            }
        }
        if list.get_ref().iter().all(|entry| *entry.get_ref().weight.get_ref() == 0) {
            self.error(list.span(), "no part of the split has a weight", "give one of them a `weight` above zero");
        }
        if let Some(by) = by
            && let SplitBy::Cookie(cookie) = by.get_ref()
        {
            self.not_too_long(by.span(), cookie.max_age, "max_age");
        }
        let by = by.map_or_else(SplitBy::default, |by| by.get_ref().clone());
        is_right.then_some(Action::Split { branches, by })
    }
}
