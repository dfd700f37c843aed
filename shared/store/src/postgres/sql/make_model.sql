-- Makes a model if it is new. $1 tenant, $2 model. No rows.
insert into model (tenant, model) values ($1::text, $2::text) on conflict do nothing
