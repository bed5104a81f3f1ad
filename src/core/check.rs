//! Active health checks: what an answer means, and what a row of answers makes of a pod.

/// What one answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Good,
    /// It is not, or there was no answer.
    Bad,
    /// No new sessions, please; those there are go on.
    Drain,
    /// Nothing at all, please.
    Maintenance,
}

/// What a pod may be sent, by its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Everything. A pod that has not been asked yet is one of these: the first answer is not waited for.
    #[default]
    Up,
    /// Only what its sessions send.
    Drain,
    /// Nothing new, as long as there are others.
    Down,
    /// Nothing.
    Maintenance,
}

/// The row of answers so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks {
    health: Health,
    /// Answers in a row that contradict it.
    against: u32,
    /// Good answers in a row since the last bad one; `None` once they were enough.
    good: Option<u32>,
}

/// Reads an answer. 2xx and 3xx are good; a body that begins with one of the words of HAProxy's agents says more
/// (HAProxy's configuration manual, section 5.2, `agent-check`). Of its weights, which come alone or behind a word, only none
/// at all is looked at.
pub fn verdict(status: u16, body: &str) -> Verdict {
    let word = body.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let is = |words: &[&str]| words.iter().any(|known| word.eq_ignore_ascii_case(known));
    let has_no_weight = || {
        let mut words = body.split(|c: char| c.is_ascii_whitespace() || c == ',').filter(|word| !word.is_empty());
        let first = words.next();
        first == Some("0%") || is(&["up", "ready"]) && words.next() == Some("0%")
    };
    if is(&["drain"]) || has_no_weight() {
        Verdict::Drain
    } else if is(&["maint"]) {
        Verdict::Maintenance
    } else if is(&["down", "failed", "fail", "stopped"]) || !(200..400).contains(&status) {
        Verdict::Bad
    } else {
        Verdict::Good
    }
}

impl Checks {
    /// What the pod may be sent.
    pub fn health(&self) -> Health {
        self.health
    }

    /// What the pod may be sent after this answer: a word of its own counts at once, the rest after `rise` good answers or
    /// `fall` bad ones in a row. A pod in maintenance may well stop answering: it stays there until it says something else.
    pub fn note(&mut self, verdict: Verdict, rise: u32, fall: u32) -> Health {
        let (towards, needed) = match verdict {
            Verdict::Drain => (Health::Drain, 1),
            Verdict::Maintenance => (Health::Maintenance, 1),
            Verdict::Bad if self.health == Health::Maintenance => (Health::Maintenance, 1),
            Verdict::Bad => (Health::Down, fall),
            Verdict::Good if self.health == Health::Down => (Health::Up, rise),
            Verdict::Good => (Health::Up, 1),
        };
        self.against = if towards == self.health { 0 } else { self.against + 1 };
        if self.against >= needed.max(1) {
            (self.health, self.against) = (towards, 0);
        }
        self.health
    }

    /// Whether this answer is the last of the `rise` good ones in a row that a bad one has to be made up for with: whatever
    /// the pod was, it is back. So is one that has been away for too short a time to count as down.
    pub fn has_risen(&mut self, verdict: Verdict, rise: u32) -> bool {
        let good = match (verdict, self.good) {
            (Verdict::Bad, _) => Some(0),
            (Verdict::Good, Some(good)) => Some(good + 1),
            (Verdict::Good, None) | (Verdict::Drain | Verdict::Maintenance, _) => self.good,
        };
        self.good = good.filter(|good| *good < rise.max(1));
        self.good != good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_haproxys_agents_mean_them() {
        for (status, body, expected) in [
            (200, "", Verdict::Good),
            (204, "{\"status\":\"down\"}", Verdict::Good),
            (302, "Found", Verdict::Good),
            (200, "up\n", Verdict::Good),
            (200, "ready 100%", Verdict::Good),
            (200, "0%\n", Verdict::Drain),
            (200, "up 0%", Verdict::Drain),
            (200, "ready, 0%", Verdict::Drain),
            (200, "10% 0%", Verdict::Good),
            (200, "Loaded 0%", Verdict::Good),
            (200, " DRAIN\n", Verdict::Drain),
            (200, "maint", Verdict::Maintenance),
            (503, "drain", Verdict::Drain),
            (200, "down#2 out of memory", Verdict::Bad),
            (200, "stopped", Verdict::Bad),
            (200, "downtown", Verdict::Good),
            (404, "", Verdict::Bad),
            (503, "ready", Verdict::Bad),
            (101, "", Verdict::Bad),
        ] {
            assert_eq!(verdict(status, body), expected, "{status} {body:?}");
        }
    }

    #[test]
    fn it_takes_a_row_of_answers() {
        let mut checks = Checks::default();
        let mut note = |verdict| checks.note(verdict, 2, 3);
        use Verdict::{Bad, Drain, Good, Maintenance};
        for (verdict, expected) in [
            (Good, Health::Up),
            (Bad, Health::Up),
            (Bad, Health::Up),
            (Good, Health::Up),
            (Bad, Health::Up),
            (Bad, Health::Up),
            (Bad, Health::Down),
            (Good, Health::Down),
            (Bad, Health::Down),
            (Good, Health::Down),
            (Good, Health::Up),
            (Drain, Health::Drain),
            (Good, Health::Up),
            (Maintenance, Health::Maintenance),
            (Bad, Health::Maintenance),
            (Bad, Health::Maintenance),
            (Bad, Health::Maintenance),
            (Good, Health::Up),
        ] {
            assert_eq!(note(verdict), expected, "after {verdict:?}");
        }
    }

    #[test]
    fn a_pod_is_back_once_for_each_time_that_it_was_away() {
        let mut checks = Checks::default();
        let mut has_risen = |verdict| checks.has_risen(verdict, 2);
        use Verdict::{Bad, Drain, Good, Maintenance};
        for (verdict, expected) in [
            (Good, false),
            (Good, false),
            (Bad, false),
            (Good, false),
            (Bad, false),
            (Bad, false),
            (Good, false),
            (Good, true),
            (Good, false),
            (Good, false),
            (Bad, false),
            (Maintenance, false),
            (Good, false),
            (Drain, false),
            (Good, true),
            (Drain, false),
        ] {
            assert_eq!(has_risen(verdict), expected, "after {verdict:?}");
        }
    }
}
