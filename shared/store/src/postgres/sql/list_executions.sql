-- A page of executions without inputs and results, the youngest first. This is its beginning; between it and its rest
-- (list_executions_rest) stands the table to look at and by which index, one of those in postgres/list.rs.
--
-- $1 tenant, $2 only below this id (null: any), $3 only from this id on, $4 at most so many, $5 look at no more than so many.
-- Only (null: any) $6 of this model, $7 in this state, $8 of the node with this name, $9 of this life of a node, $10 with this
-- error_class.
--
-- The last one that may be looked at is among the rows, wanted or not: is_cut.
with looked as (
    select e.execute_id, row_number() over (order by e.execute_id desc) as place,
        (($6::text is null or e.model = $6::text) and ($7::text is null or e.state = $7::text)
            and ($8::text is null or split_part(e.node, '@', 1) = $8::text) and ($9::text is null or e.node = $9::text)
            and ($10::text is null or e.error_class = $10::text)) is true as is_wanted
