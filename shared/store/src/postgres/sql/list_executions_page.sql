        and e.tenant = $1::text and e.execute_id >= $3::uuid
        and e.execute_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    order by 