//! Templates that are built from Dockerfiles by a real engine.

use belljar::sandbox::builds::{BuildError, Dockerfile};
use belljar::sandbox::{Builds, LaunchError};

use super::{Sealed, config, place};

fn dockerfile(text: &str) -> Dockerfile {
    Dockerfile::new(text.into()).expect("one to build")
}

async fn names(builds: &Builds) -> Vec<String> {
    let built = builds.list().await.expect("the engine lists");
    built.into_iter().map(|built| built.name).collect()
}

#[tokio::test]
async fn a_template_is_built_listed_and_deleted() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let builds = &gateway.app.sandboxes.builds;
    // Its commands have no network but the loopback interface.
    let text = "FROM belljar-test-busybox:latest\nLABEL belljar.built=other\n\
                RUN test \"$(grep -c : /proc/net/dev)\" = 1\n";
    let built = builds.build("mine", &dockerfile(text)).await;
    let built = built.expect("it is built");
    assert_eq!(built.name, "mine");
    // On top of it, with its labels, in an image of the Dockerfile's own choice.
    let above = format!("FROM {}\n", built.image);
    builds
        .build("above", &dockerfile(&above))
        .await
        .expect("it is built");
    assert_eq!(names(builds).await, ["above", "mine"]);
    assert_eq!(builds.find("mine").await.unwrap(), Some(built));
    assert!(builds.remove("above").await.unwrap());
    assert!(builds.remove("mine").await.unwrap());
    assert!(!builds.remove("mine").await.unwrap());
    assert!(names(builds).await.is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_built_says_why_and_leaves_nothing() {
    let Some(_place) = place().await else { return };
    let gateway = Sealed::with(config()).await;
    let builds = &gateway.app.sandboxes.builds;
    for (text, why) in [
        (
            "FROM belljar-test-busybox:latest\nRUN echo because; exit 3\n",
            "because",
        ),
        ("FROM belljar-test-busybox:latest\nFLY away\n", "FLY"),
    ] {
        match builds.build("broken", &dockerfile(text)).await {
            Err(BuildError::Launch(LaunchError::Build(log))) => {
                assert!(log.contains(why), "{log}");
            }
            Err(BuildError::Launch(LaunchError::Refused { message, .. })) => {
                assert!(message.contains(why), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(names(builds).await.is_empty());
    gateway.stop().await;
}
