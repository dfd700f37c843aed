-- Keeps others from adding versions to a model until the transaction ends. $1 tenant, $2 model. One row.
select from model where tenant = $1::text and model = $2::text for no key update
