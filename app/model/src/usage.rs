//! One finished request, as the gateway's ledger hands it on.

use crate::access::Environment;
use crate::{ConsumerId, KeyId, PlanVersionId, RequestId, SubscriptionId, Time};
use serde::{Deserialize, Serialize};

/// What happened to one authenticated request. `units` is 0 when it does not count: refused, failed, or of a status
/// that the meter leaves out. A refusal with units is that of an answer which the upstream gave and which could not be
/// passed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Position in the ledger, from 1, without gaps.
    pub seq: u64,
    /// The request.
    pub request: RequestId,
    /// When it was admitted or refused (business time).
    pub at: Time,
    /// Whose.
    pub consumer: ConsumerId,
    /// Live or test.
    pub environment: Environment,
    /// The agreement it counts under.
    pub subscription: Option<SubscriptionId>,
    /// The plan version whose prices hold.
    pub plan_version: Option<PlanVersionId>,
    /// Start of the billing period it counts in.
    pub period_start: Time,
    /// The key.
    pub key: KeyId,
    /// Whether it is a further part of a request that has a record already, and no request of its own.
    #[serde(default)]
    pub continues: bool,
    /// Number of the route; 0 when none matched.
    pub route: u16,
    /// Number of the meter; 0 when none.
    pub meter: u16,
    /// Units counted.
    pub units: u32,
    /// Status the client saw.
    pub status: u16,
    /// Why the gateway refused, as a number of `gateway`'s refusal table; 0 when it did not.
    pub refusal: u8,
    /// Number of the combination of feature variants it was made under ([`crate::snapshot::Variants`]); 0 for none.
    pub variants: u16,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From the first byte of the request to the last of the answer, in microseconds.
    pub duration_us: u32,
}

/// Records of one gateway, in order, without gaps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageBatch {
    /// The ledger they come from: made once per ledger folder, never reused.
    pub ledger: String,
    /// The records; the first one's `seq` follows the last one shipped.
    pub records: Vec<UsageRecord>,
}
