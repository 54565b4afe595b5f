//! The kit itself: databases are fresh, separate and complete.

use testkit::Database;

#[tokio::test]
async fn two_databases_share_nothing() {
    let (a, b) = (Database::new().await, Database::new().await);
    sqlx::query("INSERT INTO features VALUES ('x', 'X')")
        .execute(a.pool())
        .await
        .unwrap();
    let count = |pool: &sqlx::PgPool| {
        let pool = pool.clone();
        async move {
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM features")
                .fetch_one(&pool)
                .await
                .unwrap()
        }
    };
    assert_eq!((count(a.pool()).await, count(b.pool()).await), (1, 0));
}
