//! The list of executions.

use domain::{Ending, ErrorClass, ExecuteId, Failure, State};
use jiff::Timestamp;
use store::{ExecutionFilter, NewExecution, OfNode, Settlement};

use super::{Env, claim_of, claimed, direct, finish, new_execution, node, requeue_of, succeeded};

fn dated(n: u64) -> ExecuteId {
    ExecuteId::new(u64::try_from(Timestamp::now().as_millisecond()).unwrap() + n)
}

/// Executions of increasing ids, of the models `even` and `odd`.
fn executions(count: u64) -> Vec<NewExecution> {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    let new = |n| NewExecution {
        execute_id: ExecuteId::new(now + n),
        model: if n % 2 == 0 { "even" } else { "odd" }.parse().unwrap(),
        ..new_execution()
    };
    (0..count).map(new).collect()
}

/// The places in `all` of what a page holds, and of its `next`.
async fn page(env: &Env, all: &[NewExecution], filter: &ExecutionFilter) -> (Vec<usize>, Option<usize>) {
    let page = env.record.list_executions(&all[0].tenant, filter).await.unwrap();
    let place = |id| all.iter().position(|new| new.execute_id == id).unwrap();
    (page.executions.iter().map(|row| place(row.execution.execute_id)).collect(), page.next.map(place))
}

pub async fn executions_are_listed_youngest_first_in_pages(env: Env) {
    let all = executions(7);
    env.record.accept(&all).await.unwrap();
    let first = ExecutionFilter { limit: 3, ..ExecutionFilter::default() };
    assert_eq!(page(&env, &all, &first).await, (vec![6, 5, 4], Some(4)));
    let before = |n: usize| ExecutionFilter { before: Some(all[n].execute_id), ..first.clone() };
    assert_eq!(page(&env, &all, &before(4)).await, (vec![3, 2, 1], Some(1)));
    assert_eq!(page(&env, &all, &before(1)).await, (vec![0], None));
    // As many as there are: there is no next page.
    let whole = ExecutionFilter { limit: 7, ..first.clone() };
    assert_eq!(page(&env, &all, &whole).await.1, None);
    let stranger = "stranger".parse().unwrap();
    assert_eq!(env.record.list_executions(&stranger, &first).await.unwrap().executions, []);
}

pub async fn a_list_holds_what_every_filter_lets_through(env: Env) {
    let all = executions(8);
    env.record.accept(&all).await.unwrap();
    let failed = |class| Settlement::Ended(Ending::Failed(Failure::new(class, "no")));
    let delayed = Settlement::Retried(std::time::Duration::from_secs(60));
    for (n, name, settlement) in [
        (0, "one", Some(succeeded("done"))),
        (1, "one", Some(failed(ErrorClass::Script))),
        (2, "two", Some(failed(ErrorClass::Oom))),
        (3, "two", Some(failed(ErrorClass::Script))),
        (4, "two", None),
        (5, "one", Some(delayed)),
    ] {
        let mut claim = claim_of(&all[n]);
        claim.node = node(name);
        let claim = claimed(env.claim(&claim).await);
        if let Some(settlement) = settlement {
            env.finish(&finish(&all[n], &claim, settlement)).await;
        }
    }
    let any = ExecutionFilter { limit: 100, ..ExecutionFilter::default() };
    let state = |state| ExecutionFilter { state: Some(state), ..any.clone() };
    let class = |class| ExecutionFilter { error_class: Some(class), ..any.clone() };
    let on = |node| ExecutionFilter { node: Some(node), ..any.clone() };
    let of = |model: &str, filter| ExecutionFilter { model: Some(model.parse().unwrap()), ..filter };
    let two = || OfNode::Named("two".parse().unwrap());
    for (filter, expected) in [
        (any.clone(), &[7, 6, 5, 4, 3, 2, 1, 0][..]),
        (of("even", any.clone()), &[6, 4, 2, 0]),
        (of("none", any.clone()), &[]),
        (state(State::Queued), &[7, 6]),
        (state(State::Delayed), &[5]),
        (state(State::Running), &[4]),
        (state(State::Succeeded), &[0]),
        (state(State::Failed), &[3, 2, 1]),
        (state(State::Dead), &[]),
        (of("odd", state(State::Failed)), &[3, 1]),
        (of("even", state(State::Queued)), &[6]),
        (of("odd", state(State::Running)), &[]),
        (class(ErrorClass::Script), &[3, 1]),
        (of("even", class(ErrorClass::Oom)), &[2]),
        (of("odd", class(ErrorClass::Oom)), &[]),
        (ExecutionFilter { state: Some(State::Succeeded), ..class(ErrorClass::Oom) }, &[]),
        (on(two()), &[4, 3, 2]),
        (on(OfNode::Life(node("two"))), &[4, 3, 2]),
        (on(OfNode::Named("tw".parse().unwrap())), &[]),
        (ExecutionFilter { node: Some(two()), ..state(State::Failed) }, &[3, 2]),
        (ExecutionFilter { node: Some(two()), ..of("even", class(ErrorClass::Oom)) }, &[2]),
        (ExecutionFilter { from: Some(all[5].execute_id), ..any.clone() }, &[7, 6, 5]),
        (
            ExecutionFilter { from: Some(all[2].execute_id), before: Some(all[5].execute_id), ..any.clone() },
            &[4, 3, 2],
        ),
        (ExecutionFilter { from: Some(all[2].execute_id), ..state(State::Failed) }, &[3, 2]),
        (ExecutionFilter { before: Some(all[7].execute_id), ..state(State::Queued) }, &[6]),
    ] {
        assert_eq!(page(&env, &all, &filter).await, (expected.to_vec(), None), "{filter:?}");
    }
}

pub async fn what_came_meanwhile_shifts_no_page(env: Env) {
    let mut all = executions(4);
    env.record.accept(&all).await.unwrap();
    let first = ExecutionFilter { limit: 2, state: Some(State::Queued), ..ExecutionFilter::default() };
    let (seen, next) = page(&env, &all, &first).await;
    assert_eq!((seen, next), (vec![3, 2], Some(2)));
    let younger = NewExecution { execute_id: dated(1_000), ..new_execution() };
    env.accept(&younger).await;
    all.push(younger);
    // And one that was seen is queued no longer.
    env.claim(&claim_of(&all[3])).await;
    let second = ExecutionFilter { before: Some(all[2].execute_id), ..first };
    assert_eq!(page(&env, &all, &second).await, (vec![1, 0], None));
}

pub async fn a_list_that_finds_little_says_how_far_it_got(env: Env) {
    let look = domain::limits::LIST_LOOK_MAX as usize;
    let all = executions(look as u64 + 10);
    for chunk in all.chunks(500) {
        env.record.accept(chunk).await.unwrap();
    }
    let claim = claimed(env.claim(&claim_of(&all[3])).await);
    env.settle(&all[3], &claim, succeeded("done")).await;
    let rare = ExecutionFilter { limit: 5, state: Some(State::Succeeded), ..ExecutionFilter::default() };
    let (found, next) = page(&env, &all, &rare).await;
    assert_eq!((found, next), (vec![], Some(10)));
    let rest = ExecutionFilter { before: Some(all[10].execute_id), ..rare };
    assert_eq!(page(&env, &all, &rest).await, (vec![3], None));
    // So many wait that they are looked for among all.
    let waiting = ExecutionFilter { limit: 2, state: Some(State::Queued), ..ExecutionFilter::default() };
    assert_eq!(page(&env, &all, &waiting).await, (vec![look + 9, look + 8], Some(look + 8)));
}

pub async fn executions_are_found_by_the_attributes_their_callers_gave_them(env: Env) {
    let mut all = executions(6);
    for (n, attributes) in
        [(0, "customer=acme"), (2, "run=7, customer=acme"), (3, "customer=acme co"), (5, "run=7")]
    {
        all[n].attributes = attributes.parse().unwrap();
    }
    // Recorded by a gateway, made by the claim of a direct producer's message, made by giving one back.
    env.record.accept(&all[..3]).await.unwrap();
    env.claim(&direct(&all[3])).await;
    env.record.accept(&all[4..5]).await.unwrap();
    env.record.requeue(&[requeue_of(&direct(&all[5]))], std::time::Duration::ZERO).await.unwrap();
    let with = |text: &str| ExecutionFilter {
        attributes: text.parse().unwrap(),
        limit: 100,
        ..ExecutionFilter::default()
    };
    for (filter, expected) in [
        (with("customer=acme"), &[2, 0][..]),
        (with("customer=acme co"), &[3]),
        (with("customer=none"), &[]),
        (with("run=7"), &[5, 2]),
        (with("run=7, customer=acme"), &[2]),
        (ExecutionFilter { state: Some(State::Running), ..with("customer=acme co") }, &[3]),
        (ExecutionFilter { state: Some(State::Queued), ..with("run=7") }, &[5, 2]),
        (ExecutionFilter { model: Some("odd".parse().unwrap()), ..with("run=7") }, &[5]),
        (ExecutionFilter { error_class: Some(ErrorClass::Oom), ..with("run=7") }, &[]),
        (ExecutionFilter { before: Some(all[5].execute_id), ..with("run=7") }, &[2]),
        (ExecutionFilter { from: Some(all[1].execute_id), ..with("customer=acme") }, &[2]),
    ] {
        assert_eq!(page(&env, &all, &filter).await, (expected.to_vec(), None), "{filter:?}");
    }
    let first = ExecutionFilter { limit: 1, ..with("run=7") };
    assert_eq!(page(&env, &all, &first).await, (vec![5], Some(5)));
    assert_eq!(env.row(all[2].execute_id).await.attributes, all[2].attributes);
    assert!(env.row(all[1].execute_id).await.attributes.is_empty());
    let stranger = "stranger".parse().unwrap();
    let page = env.record.list_executions(&stranger, &with("run=7")).await.unwrap();
    assert_eq!(page.executions, []);
}
