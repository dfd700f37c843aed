-- Forgets idempotency keys that ran out. $1 at most so many. No rows.
delete from idempotency_key k using (
    select tenant, model, key from idempotency_key where expires_at <= now() order by expires_at limit $1::int8
    for update skip locked
) gone
where (k.tenant, k.model, k.key) = (gone.tenant, gone.model, gone.key)
