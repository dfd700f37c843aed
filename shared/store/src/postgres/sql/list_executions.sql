-- A page of executions without inputs and results, the youngest first. This is its beginning; postgres/list.rs puts in the order
-- by which it walks, the table e it walks over, and its rest (list_executions_page, list_executions_rest).
--
-- $1 tenant, $2 only below this id (null: any), $3 only from this id on, $4 at most so many, $5 look at no more than so many.
-- Only (null: any) $6 of this model, $7 in this state, $8 of the node with this name, $9 of this life of a node, $10 with this
-- error_class. $11 only these ids, if the table says so. $12 with all of these attributes (null: any).
--
-- The last one that may be looked at is among the rows, wanted or not: is_cut.
with looked as (
    select e.execute_id, $11::uuid[] is null as is_open,
        (($6::text is null or e.model = $6::text) and ($7::text is null or e.state = $7::text)
            and ($8::text is null or split_part(e.node, '@', 1) = $8::text) and ($9::text is null or e.node = $9::text)
            and ($10::text is null or e.error_class = $10::text)
            and ($12::jsonb is null or e.attributes @> $12::jsonb)) is true as is_wanted,
        row_number() over (order by 