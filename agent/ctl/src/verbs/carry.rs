//! How a change is carried out: not without a word where it cuts nodes off from one another, and with `--now` at once.

use anyhow::{bail, ensure};
use jiff::Timestamp;
use manx_datastore::{Datastore, Manifest, Write, annotated};
use manx_resources::{Cut, Key, Kind, parse};

use super::Verb;
use crate::output;

/// What the daemons of all nodes look at: another value says that the change beside it is carried out at once.
const NOW: &str = "manx.dev/now";

/// More of them are counted.
const TOLD: usize = 5;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Carry {
    /// Write it though it cuts nodes off from one another
    #[arg(long)]
    yes: bool,
    /// Let it be carried out at once: no session and no route is kept until there is another way
    #[arg(long)]
    now: bool,
}

impl Carry {
    /// All that is to be written. Refused if it would cut nodes off from one another, and nobody said yes to that.
    pub fn prepare(
        &self,
        mut writes: Vec<Write>,
        verb: Verb,
        datastore: &Datastore,
    ) -> anyhow::Result<Vec<Write>> {
        // Sessions come from these kinds alone.
        let makes_sessions =
            |write: &Write| matches!(write.key().kind, Kind::BgpConfiguration | Kind::BgpPeer | Kind::Node);
        if writes.iter().any(makes_sessions) {
            let before = datastore.read().snapshot;
            let cut = manx_resources::change(&before, &manx_datastore::after(&before, &writes)).cut;
            self.agree(&cut, verb)?;
        }
        if self.now {
            self.say_now(&mut writes, datastore)?;
        }
        Ok(writes)
    }

    fn agree(&self, cut: &[Cut], verb: Verb) -> anyhow::Result<()> {
        let mut said: Vec<String> = cut.iter().take(TOLD).map(Cut::to_string).collect();
        if cut.len() > TOLD {
            said.push(format!("and {} more such pairs of groups of nodes", cut.len() - TOLD));
        }
        let said = said.join("\n ");
        match (cut.is_empty(), self.yes) {
            (true, _) => Ok(()),
            (false, true) => {
                output::complain("warning", &said);
                Ok(())
            }
            (false, false) => bail!(
                "Failed to {} any resources: [{said}]\nGive what takes the place of these sessions in the same command (-f \
                 again), or say --yes: routes without another way are then held for five minutes (manx.dev/holdRoutes), with \
                 --now not at all",
                verb.bare
            ),
        }
    }

    fn say_now(&self, writes: &mut Vec<Write>, datastore: &Datastore) -> anyhow::Result<()> {
        let key = Key::new(Kind::BgpConfiguration, "default");
        let now = Timestamp::now().to_string();
        let own = writes.iter().position(|write| write.key() == key);
        let Some(write) = own.map(|at| writes.remove(at)) else {
            let reading = datastore.read_versions(&[key.kind]);
            let there = reading.update.snapshot.get(&key).zip(reading.versions.get(&key));
            let text = match &there {
                Some((resource, _)) => annotated(resource.document(), NOW, &now).to_string(),
                None => format!(
                    "{{apiVersion: projectcalico.org/v3, kind: {}, metadata: {{name: {}, annotations: {{{NOW}: '{now}'}}}}}}",
                    key.kind, key.name
                ),
            };
            let parsed = parse(&key.to_string(), &text);
            let made = match (Manifest::of(&text, &parsed).pop(), there) {
                (Some(manifest), Some((_, version))) => {
                    Write::Edit { resource: manifest.resource, version: version.clone() }
                }
                (Some(manifest), None) => Write::Apply(manifest),
                (None, _) => bail!("--now writes {NOW} on {key}, and that cannot be written as it is"),
            };
            writes.push(made);
            return Ok(());
        };
        let write = match write {
            Write::Apply(manifest) => Write::Apply(manifest.annotated(NOW, &now)),
            Write::Create { manifest, skip_existing } => {
                Write::Create { manifest: manifest.annotated(NOW, &now), skip_existing }
            }
            Write::Replace(manifest) => Write::Replace(manifest.annotated(NOW, &now)),
            Write::Edit { resource, version } => {
                let document = annotated(resource.document(), NOW, &now).to_string();
                let mut parsed = parse(&key.to_string(), &document);
                let resource = parsed.documents.pop().map_or(resource, |document| document.resource);
                Write::Edit { resource, version }
            }
            Write::Delete { .. } => {
                ensure!(!self.now, "--now writes {NOW} on {key}, which is deleted here; replace it instead");
                write
            }
        };
        writes.insert(own.unwrap_or_default(), write);
        Ok(())
    }
}
