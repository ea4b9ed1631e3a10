-- Where a tenant stands: {generation, sequence}.
return {generation(), sequence_of(A.tenant)}
