use serde::{Deserialize, Serialize};
use tidegate_registry::{Live, LiveConfig, RegistryError, Section};

use crate::site::{Site, in_time};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    pushes_max: u32,
}

async fn until_section(live: &mut Live<Limits>, fits: impl Fn(&Section<Limits>) -> bool) {
    let came = async {
        let mut section = live.section();
        while !fits(&section) {
            section = live.changed().await;
        }
    };
    in_time("the section", came).await;
}

pub async fn a_value_that_does_not_fit_leaves_the_last_good_one(site: &Site) {
    let config = LiveConfig::new(&site.other(), &site.names);
    let mut limits = config.section("limits", Limits { pushes_max: 1 }).expect("a name");
    let key = site.names.config("limits").expect("a name");
    LiveConfig::new(&site.registry, &site.names).set("limits", &Limits { pushes_max: 2 }).await.expect("set");
    until_section(&mut limits, |section| section.value.pushes_max == 2).await;
    let good = limits.section().version.expect("it is the registry's");
    for bad in ["", "{", r#"{"pushes_max":-1}"#, r#"{"pushes_max":3,"unknown":1}"#] {
        site.registry.put(&key, bad).await.expect("put");
        let bad = site.registry.get(&key).await.expect("get").expect("it is there").version;
        until_section(&mut limits, |section| section.rejected.as_ref().is_some_and(|it| it.version == bad)).await;
        let section = limits.section();
        assert_eq!((section.value.pushes_max, section.version), (2, Some(good)));
        assert!(!section.rejected.as_ref().expect("it was rejected").reason.is_empty());
    }
    config.set("limits", &Limits { pushes_max: 4 }).await.expect("set");
    until_section(&mut limits, |section| section.value.pushes_max == 4 && section.rejected.is_none()).await;
    assert_eq!(limits.current().pushes_max, 4);
}

pub async fn without_a_value_the_default_holds(site: &Site) {
    let mut config = LiveConfig::new(&site.registry, &site.names);
    let mut limits = config.section("limits", Limits { pushes_max: 1 }).expect("a name");
    let other = config.section("other", Limits { pushes_max: 9 }).expect("a name");
    assert_eq!(limits.current().pushes_max, 1);
    in_time("the first picture", config.ready()).await;
    config.set("limits", &Limits { pushes_max: 2 }).await.expect("set");
    drop(config);
    until_section(&mut limits, |section| section.value.pushes_max == 2).await;
    site.registry.delete(&site.names.config("limits").expect("a name")).await.expect("delete");
    until_section(&mut limits, |section| section.value.pushes_max == 1 && section.version.is_none()).await;
    assert_eq!(other.current().pushes_max, 9);
    let config = LiveConfig::new(&site.registry, &site.names);
    let refused = config.section("a/b", Limits { pushes_max: 1 });
    assert!(matches!(refused, Err(RegistryError::InvalidName { .. })));
}
