-- What a latent is about: contexts over the whole range of its activations, and scores.

-- A whole number in the place of another, the same in every release: an order without meaning.
CREATE OR REPLACE MACRO scattered(number) AS (number::HUGEINT * 2654435761 % 4294967296)::UBIGINT;

-- The latent's firings in `quantiles` parts of equal count by activation, 1 the weakest, and n
-- contexts drawn from each: each in another document where there are enough of them, none with the
-- text of another. low, high: the activations of the part; n_fires: firings in it. Others' tools
-- call intervals of equal width quantiles: in those, nearly all firings are in the lowest.
-- Example: FROM contexts_by_quantile('latest', 7, n := 2, width := 8)
CREATE OR REPLACE MACRO contexts_by_quantile(run, latent, quantiles := 5, n := 4, width := 10)
AS TABLE
    WITH firing AS MATERIALIZED (
        SELECT l.token_index, l.activation,
            ntile(quantiles) OVER (ORDER BY l.activation, l.token_index) AS quantile
        FROM latents AS l WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    part AS MATERIALIZED (
        SELECT f.quantile, min(f.activation) AS low, max(f.activation) AS high,
            count(*) AS n_fires
        FROM firing AS f GROUP BY f.quantile
    ),
    drawn AS MATERIALIZED (
        FROM firing AS f
        QUALIFY row_number() OVER (
            PARTITION BY f.quantile ORDER BY scattered(f.token_index), f.token_index
        ) <= 8 * n + 40
    ),
    grouped AS (
        SELECT d.quantile, d.token_index, g.group_id,
            row_number() OVER (
                PARTITION BY g.group_id, d.quantile
                ORDER BY scattered(d.token_index), d.token_index
            ) AS within,
            row_number() OVER (
                PARTITION BY g.group_id ORDER BY scattered(d.token_index), d.token_index
            ) AS among_all
        FROM drawn AS d
        JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = d.token_index
        JOIN document_groups(run) AS g ON g.doc_id = t.doc_id
        WHERE t.token_index IN (SELECT d.token_index FROM drawn AS d)
    ),
    candidate AS MATERIALIZED (
        SELECT o.quantile, o.token_index, row_number() OVER (
                PARTITION BY o.quantile ORDER BY o.within, o.among_all,
                    scattered(o.token_index), o.token_index
            ) AS place
        FROM grouped AS o QUALIFY place <= n + 4
    ),
    around AS MATERIALIZED (
        FROM tokens_around(run, (
            SELECT list(c.token_index ORDER BY c.place, c.quantile DESC) FROM candidate AS c
        ), width, quantiles * (n + 4))
    ),
    shown AS (
        SELECT a.rank, a.place AS token_index, a.doc_id,
            max(a.token) FILTER (a.token_index = a.place) AS token,
            max(a.position) FILTER (a.token_index = a.place) AS position,
            string_agg(
                marked(a.token, a.token_index = a.place, f.token_index IS NOT NULL), ''
                ORDER BY a.token_index
            ) FILTER (NOT a.special) AS context
        FROM around AS a LEFT JOIN firing AS f ON f.token_index = a.token_index
        GROUP BY a.rank, a.place, a.doc_id
    )
    SELECT f.quantile, p.low, p.high, p.n_fires, f.activation, s.token, s.context, d.label,
        d.split, s.doc_id, s.position, s.token_index
    FROM shown AS s
    JOIN firing AS f ON f.token_index = s.token_index
    JOIN part AS p ON p.quantile = f.quantile
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = s.doc_id
    QUALIFY row_number() OVER (PARTITION BY f.quantile ORDER BY s.rank) <= n
    ORDER BY f.quantile DESC, s.rank;

-- The answer of contexts_by_quantile with its default five parts, from latent_contexts, where the run
-- has a map: at once, also of a latent that fires on every token. At most 4 contexts of each part.
-- Example: FROM ready_contexts('latest', 7, n := 2, width := 8)
CREATE OR REPLACE MACRO ready_contexts(run, latent, n := 4, width := 10) AS TABLE
    WITH candidate AS MATERIALIZED (
        SELECT c.quantile, c.place, c.token_index, c.activation, c.low, c.high, c.n_fires
        FROM latent_contexts AS c
        WHERE c.run_id = resolve_run(run) AND c.latent = latent AND c.place <= n + 4
    ),
    around AS MATERIALIZED (
        FROM tokens_around(run, (
            SELECT list(c.token_index ORDER BY c.place, c.quantile DESC) FROM candidate AS c
        ), width, 5 * (n + 4))
    ),
    firing AS MATERIALIZED (
        SELECT l.token_index FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
            AND l.token_index IN (SELECT a.token_index FROM around AS a)
    ),
    shown AS (
        SELECT a.rank, a.place AS token_index, a.doc_id,
            max(a.token) FILTER (a.token_index = a.place) AS token,
            max(a.position) FILTER (a.token_index = a.place) AS position,
            string_agg(
                marked(a.token, a.token_index = a.place, f.token_index IS NOT NULL), ''
                ORDER BY a.token_index
            ) FILTER (NOT a.special) AS context
        FROM around AS a LEFT JOIN firing AS f ON f.token_index = a.token_index
        GROUP BY a.rank, a.place, a.doc_id
    )
    SELECT c.quantile::BIGINT AS quantile, c.low, c.high, c.n_fires::BIGINT AS n_fires,
        c.activation, s.token, s.context, d.label, d.split, s.doc_id, s.position, s.token_index
    FROM shown AS s
    JOIN candidate AS c ON c.token_index = s.token_index
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = s.doc_id
    QUALIFY row_number() OVER (PARTITION BY c.quantile ORDER BY s.rank) <= n
    ORDER BY c.quantile DESC, s.rank;

-- The scores of single latents, those by words and those by a language model, with its explanation.
-- Compare values with their floor: guessing, or always the same answer, gives that.
-- Example: FROM interpretability('latest') WHERE value IS NOT NULL LIMIT 5
CREATE OR REPLACE MACRO interpretability(run) AS TABLE
    WITH score AS (
        SELECT s.run_id, s.latent, s.method, s.value, s.ci_low, s.ci_high, s.floor, s.n, s.failed
        FROM latent_scores AS s WHERE s.run_id = resolve_run(run)
        UNION ALL
        SELECT s.run_id, s.latent, s.method, s.value, s.ci_low, s.ci_high, s.floor, s.n, s.failed
        FROM explanation_scores AS s WHERE s.run_id = resolve_run(run)
    )
    SELECT s.latent, s.method, s.value, s.ci_low, s.ci_high, s.floor, s.n, s.failed,
        e.text AS explanation, f.top_token
    FROM score AS s
    LEFT JOIN explanations AS e ON e.run_id = s.run_id AND e.latent = s.latent
    LEFT JOIN features AS f ON f.run_id = s.run_id AND f.latent = s.latent
    ORDER BY s.method, s.value DESC NULLS LAST, s.latent;

-- Contexts by which an explanation is scored that lie in a document, or in a copy of one, of which
-- it was shown a context: none, in every run.
-- Example: FROM shown_and_scored('latest')
CREATE OR REPLACE MACRO shown_and_scored(run) AS TABLE
    WITH shown AS (
        SELECT x.latent, x.token_index, g.group_id
        FROM (
            SELECT e.latent, unnest(e.shown) AS token_index FROM explanations AS e
            WHERE e.run_id = resolve_run(run)
        ) AS x
        JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = x.token_index
        JOIN document_groups(run) AS g ON g.doc_id = t.doc_id
    )
    SELECT i.latent, i.method, i.item, i.token_index, s.token_index AS shown
    FROM explanation_items AS i
    JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = i.token_index
    JOIN document_groups(run) AS g ON g.doc_id = t.doc_id
    JOIN shown AS s ON s.latent = i.latent AND s.group_id = g.group_id
    WHERE i.run_id = resolve_run(run)
    ORDER BY i.latent, i.method, i.item;
