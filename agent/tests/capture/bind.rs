//! The agent's ports in a pod are the agent's.

use agent::capture::Capture;

use crate::rig::Rig;

const NOT_PERMITTED: &str = "error=1";

#[test]
fn a_pod_cannot_take_the_ports_of_its_agent() {
    let rig = Rig::new();
    let capture = Capture::open(rig.config()).unwrap();
    let pod = capture.enroll(&rig.spec("a")).unwrap();
    let listeners = pod.outbound.iter().chain(&pod.plaintext).chain(&pod.hbone);
    let ports: Vec<u16> = listeners.map(|listener| listener.local_addr().unwrap().port()).collect();
    assert_eq!(ports.len(), 6);
    for port in ports.iter().chain(&[15008]) {
        for host in ["127.0.0.1", "0.0.0.0", "10.200.0.11", "[::1]", "[::]", "[fd00:200::11]"] {
            let address = format!("{host}:{port}");
            assert_eq!(rig.bind("a", &address), NOT_PERMITTED, "{address}");
            assert_eq!(rig.bind("a", &format!("{address} --reuse")), NOT_PERMITTED, "{address} with SO_REUSEPORT");
        }
    }
    assert_eq!(capture.counters().unwrap().bind_refused, 7 * 6 * 2);
    for free in ["0.0.0.0:80", "[::]:15001", "127.0.0.1:15006", "0.0.0.0:0"] {
        assert_eq!(rig.bind("a", free), "bound", "{free}");
    }
    assert_eq!(rig.bind("c", "0.0.0.0:15008"), "bound", "a pod that is not enrolled");

    // Nor while there is no agent.
    drop((pod, capture));
    assert_eq!(rig.bind("a", &format!("127.0.0.1:{}", ports[0])), NOT_PERMITTED);
    assert_eq!(rig.bind("a", "0.0.0.0:15008"), NOT_PERMITTED);

    let capture = Capture::open(rig.config()).unwrap();
    let pod = capture.enroll(&rig.spec("a")).unwrap();
    capture.release(pod.id).unwrap();
    capture.forget(pod.id).unwrap();
    drop(pod);
    assert_eq!(rig.bind("a", "0.0.0.0:15008"), "bound", "a pod that was forgotten");
}
